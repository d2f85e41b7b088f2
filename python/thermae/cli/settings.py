"""What ``serve`` is told, wherever it is told it: on the command line, in the environment, in a TOML file.

A value that makes no sense is refused under the name that its author knows: the option, the variable, or the
key and its file, together with what is wanted. A name that nothing has is refused with the nearest one that
there is. Rejected: click's own messages, which name the option of the command line wherever a value is from.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

import thermae
from thermae._thermae import parse_size

if TYPE_CHECKING:
    _TextType = click.ParamType[str]
    _NumberType = click.ParamType[int]
else:
    # Older versions of click know no parameters of this type.
    _TextType = _NumberType = click.ParamType

# The key of a configuration file for what is an argument on the command line.
STORE_KEY = "store"
STORE_VARIABLE = "THERMAE_STORE"
_VARIABLE_PREFIX = "THERMAE_"
_PORT_MAX = 0xFFFF
# How much alike two names are at least, one of which was meant to be the other.
_NEAR_RATIO_MIN = 0.87
# Under which a context keeps the name of the file that was read.
_FILE = "thermae.serve.file"
_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def split_address(address: str) -> tuple[str, int] | None:
    """Host and port of an address, or None where it is none.

    Example:
        >>> split_address("127.0.0.1:6379"), split_address("[::1]:6379"), split_address("6379")
        (('127.0.0.1', 6379), ('::1', 6379), None)
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not re.fullmatch(r"[^\s,\[\]]+", host) or not re.fullmatch(r"[0-9]{1,5}", port):
        return None
    return (host, int(port)) if int(port) <= _PORT_MAX else None


class Address(_TextType):
    """``HOST:PORT``; in a variable there may be several, with commas or blanks between them."""

    name = "address"
    wanted = 'a list of texts, such as ["127.0.0.1:6379"],'

    def __init__(self, usual_port: int) -> None:
        """Takes the port that such clients expect, for examples."""
        self._examples = f"such as 127.0.0.1:{usual_port} or 0.0.0.0:{usual_port}"

    def split_envvar_value(self, value: str) -> Sequence[str]:
        """The addresses of a variable."""
        return value.replace(",", " ").split()

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> str:
        """The address as it was given, if it is one."""
        if split_address(value) is None:
            port = value.rpartition(":")[2]
            is_beyond = port.isascii() and port.isdigit() and int(port) > _PORT_MAX
            limit = f" (ports end at {_PORT_MAX})" if is_beyond else ""
            self.fail(f"{value!r} is no HOST:PORT, {self._examples}{limit}", parameter, context)
        return str(value)


class RedisParameter(_TextType):
    """``NAME=VALUE``; in a variable there may be several, with commas between them.

    Which names and values there are the server knows, as CONFIG SET does.
    """

    name = "parameter"
    wanted = 'a list of texts, such as ["slowlog-max-len=1000"],'

    def split_envvar_value(self, value: str) -> Sequence[str]:
        """The parameters of a variable."""
        return [part.strip() for part in value.split(",")]

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> str:
        """The parameter as it was given, if it has a name and a value."""
        if not str(value).partition("=")[0] or "=" not in str(value):
            self.fail(f"{value!r} is no NAME=VALUE, such as slowlog-max-len=1000", parameter, context)
        return str(value)


class WholeNumber(click.IntRange):
    """A whole number within bounds."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        """The number, if it is within them."""
        try:
            number: int = super().convert(value, parameter, context)
        except click.BadParameter:
            self.fail(f"{self.wanted} is wanted, and not {value!r}", parameter, context)
        return number

    @property
    def wanted(self) -> str:
        """What is wanted, in words."""
        return f"a whole number from {self.min}" + (" on" if self.max is None else f" to {self.max}")


class Size(_NumberType):
    """A number of bytes, or text such as 64MiB, within bounds."""

    name = "size"

    def __init__(self, least: int, most: int) -> None:
        """Takes the bounds, in bytes."""
        self._least, self._most = least, most
        self.wanted = (
            f"a size from {_size_text(least)} to {_size_text(most)}, such as 512MiB or 536870912 (bytes),"
        )

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        """The bytes, if they are within the bounds."""
        try:
            size = parse_size(str(value))
        except thermae.ThermaeError:
            size = -1
        if not self._least <= size <= self._most:
            self.fail(f"{self.wanted} is wanted, and not {value}", parameter, context)
        return size


def _size_text(size: int) -> str:
    unit, name = next(((unit, name) for unit, name in _UNITS if size and size % unit == 0), (1, "B"))
    return f"{size // unit}{name}"


class Setting(click.Option):
    """An option that may also be given in the environment and in a file."""

    def process_value(self, context: click.Context, value: Any) -> Any:
        """The value, judged; where it is refused, its place is named."""
        try:
            return super().process_value(context, value)
        except click.BadParameter as error:
            message, hint = error.message, error.param_hint
            if self.is_flag:
                message = f"true or false is wanted, and not {_shown(value)}"
            elif isinstance(self.type, click.Choice):
                message = f"one of {', '.join(self.type.choices)} is wanted, and not {_shown(value)}"
            match context.get_parameter_source(self.name):
                case ParameterSource.ENVIRONMENT:
                    hint = _variable(self.opts[0])
                case ParameterSource.DEFAULT_MAP:
                    hint = f"{_key(self.opts[0])} in {context.meta[_FILE]}"
            raise click.BadParameter(message, context, self, hint) from error


def _key(option: str) -> str:
    return option.removeprefix("--")


def _variable(option: str) -> str:
    return _VARIABLE_PREFIX + _key(option).upper().replace("-", "_")


def _shown(value: object) -> str:
    """A value as its author wrote it, about."""
    return json.dumps(value, ensure_ascii=False, default=str)


def refuse_unread_variables(context: click.Context) -> None:
    """Raises where a variable is never read: it names the negative form of an option, or one misspelt.

    Others that begin so may be anybody's: Kubernetes gives each container some, named after its services.

    Raises:
        click.UsageError: It is said what to say instead.
    """
    options = [parameter for parameter in context.command.params if isinstance(parameter, click.Option)]
    for parameter in options:
        for negative in parameter.secondary_opts:
            if os.environ.get(_variable(negative)):
                instead = f"{_variable(parameter.opts[0])}=false"
                raise click.UsageError(f"{_variable(negative)} is read by nobody: say {instead}", context)
    known = [STORE_VARIABLE, *(_variable(parameter.opts[0]) for parameter in options)]
    names = [name.removeprefix(_VARIABLE_PREFIX) for name in known]
    for variable in sorted(os.environ):
        name = variable.removeprefix(_VARIABLE_PREFIX)
        if variable in known or name == variable or not os.environ[variable]:
            continue
        if near := difflib.get_close_matches(name, names, n=1, cutoff=_NEAR_RATIO_MIN):
            raise click.UsageError(
                f"{variable} is read by nobody: did you mean {_VARIABLE_PREFIX}{near[0]}?", context
            )


def read_file(context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    """Takes a file's values for all that neither the command line nor the environment gives.

    Raises:
        click.BadParameter: The file can't be read, or something in it makes no sense.
    """
    if path is None:
        return None
    # Imported where there is a file: a server without one starts the sooner.
    import tomllib

    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise click.BadParameter(f"{path}: {reason}") from error
    context.meta[_FILE] = path
    # Before all else, so that a mistake in the file is told as the file wants it.
    if values.get("log-format") in ("text", "json"):
        context.default_map = {"log_format": values["log-format"]}
    known: dict[str, click.Parameter] = {
        _key(option): parameter
        for parameter in context.command.params
        for option in parameter.opts
        if isinstance(parameter, Setting)
    }
    known[STORE_KEY] = next(item for item in context.command.params if isinstance(item, click.Argument))
    for name in values.keys() - known.keys():
        raise click.BadParameter(
            f"{name} is no option of thermae serve: {_instead(context, name, known)}", param_hint=str(path)
        )
    context.default_map = {
        str(known[name].name): _given(path, name, known[name], value) for name, value in values.items()
    }
    return path


def _instead(context: click.Context, name: str, known: dict[str, click.Parameter]) -> str:
    for parameter in context.command.params:
        if name.replace("_", "-") in map(_key, parameter.secondary_opts):
            return f"say {_key(parameter.opts[0])} = false"
    near = difflib.get_close_matches(name.replace("_", "-"), known, n=1)
    return f"did you mean {near[0]}?" if near else "see thermae serve --help"


def _given(path: Path, name: str, parameter: click.Parameter, value: Any) -> Any:
    """A value of the file as the command line would give it."""
    if isinstance(parameter.type, Address | RedisParameter) and getattr(parameter, "multiple", False):
        if isinstance(value, str):
            return parameter.type.split_envvar_value(value)
        wanted = parameter.type.wanted
        is_good = isinstance(value, list) and all(isinstance(part, str) for part in value)
    elif getattr(parameter, "is_flag", False):
        wanted, is_good = "true or false", isinstance(value, bool)
    elif isinstance(parameter.type, WholeNumber | Size):
        wanted = parameter.type.wanted
        is_good = isinstance(value, int | str) and not isinstance(value, bool)
    elif isinstance(parameter.type, click.Choice):
        wanted = f"one of {', '.join(map(_shown, parameter.type.choices))}"
        is_good = isinstance(value, str)
    else:
        wanted, is_good = "a text in quotes", isinstance(value, str)
    if not is_good:
        raise click.BadParameter(
            f"{wanted} is wanted, and not {_shown(value)}", param_hint=f"{name} in {path}"
        )
    return value
