"""Memoizing functions in a store: `Store.memoize` and its asynchronous twin.

A call's key is made of the function's name and of its arguments with their types, in the order of the
signature, so that `f(1, b=2)` and `f(1, 2)` are one key and `f(1)` and `f(1.0)` are two. What the function is
annotated to return is what a stored result is decoded as, so that a tuple or a dataclass comes back as what
it was.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import typing
from collections.abc import Awaitable, Callable, Collection
from types import MethodType
from typing import Any, Generic, ParamSpec, TypeVar

import msgspec

from thermae import _thermae
from thermae.codecs import Codecs
from thermae.errors import InvalidOptionError, WrongTypeError
from thermae.flight import get_or_set
from thermae.options import AnyCodec

P = ParamSpec("P")
R = TypeVar("R")


class CallKeys:
    """The keys of one function's calls."""

    __slots__ = ("_ignored", "_signature", "prefix")

    def __init__(self, function: Callable[..., Any], name: str | None, ignore: Collection[str]) -> None:
        if isinstance(function, (staticmethod, classmethod)) or not callable(function):
            raise WrongTypeError(
                f"memoize takes a function, not {type(function).__name__}: write @store.memoize(...) "
                "with its parentheses, and under @staticmethod or @classmethod"
            )
        try:
            self._signature = inspect.signature(function)
        except ValueError as error:
            raise WrongTypeError(
                f"{_name_of(function)} does not tell its parameters: wrap it in a function that names them"
            ) from error
        unknown = set(ignore) - set(self._signature.parameters)
        if unknown:
            raise InvalidOptionError(
                f"ignore names {sorted(unknown)}, which {_name_of(function)} does not take: "
                f"its parameters are {list(self._signature.parameters)}"
            )
        self._ignored = frozenset(ignore)
        self.prefix = f"memoize:{name or _name_of(function)}:"

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The key of one call.

        Raises:
            WrongTypeError: An argument has no bytes by which to tell it from others.
        """
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        parts = [
            (parameter, type(value).__qualname__, value)
            for parameter, value in bound.arguments.items()
            if parameter not in self._ignored
        ]
        try:
            material = msgspec.msgpack.encode(parts, order="deterministic")
        except (TypeError, OverflowError, ValueError, RecursionError) as error:
            raise WrongTypeError(
                f"a call to be memoized has an argument that makes no key ({error}): leave it out with "
                'ignore=["name"], or pass what tells it apart'
            ) from error
        return self.prefix + hashlib.blake2b(material, digest_size=16).hexdigest()


def result_type(function: Callable[..., Any]) -> Any:
    """What the function is annotated to return, or None where a stored result is to be taken as it is.

    Example:
        >>> def pair() -> tuple[int, str]: ...
        >>> result_type(pair)
        tuple[int, str]
    """
    try:
        annotated = typing.get_type_hints(function).get("return")
    except (NameError, TypeError):
        return None
    if annotated is None or annotated is Any or isinstance(annotated, TypeVar):
        return None
    try:
        msgspec.msgpack.Decoder(annotated)
    except TypeError:
        return None
    return annotated


class Memoized(Generic[P, R]):
    """A memoized function: call it as before.

    Example:
        >>> import thermae
        >>> store = thermae.open("shm://thermae-doc-memoize", hot="16MiB")
        >>> @store.memoize(ttl=300)
        ... def square(number: int) -> int:
        ...     print("computing")
        ...     return number * number
        >>> square(3), square(number=3)
        computing
        (9, 9)
        >>> square.forget(3)
        True
        >>> store.close()
        >>> thermae.destroy("shm://thermae-doc-memoize")
    """

    def __init__(
        self,
        store: _thermae.Store,
        codecs: Codecs,
        function: Callable[P, R],
        ttl: float | None,
        *,
        name: str | None,
        ignore: Collection[str],
        codec: AnyCodec | None,
    ) -> None:
        self._keys = CallKeys(function, name, ignore)
        if inspect.iscoroutinefunction(function):
            raise WrongTypeError(
                f"{_name_of(function)} is asynchronous: memoize it with thermae.aio.Store.memoize"
            )
        functools.update_wrapper(self, function)
        self.__wrapped__ = function
        self._store = store
        self._codecs = codecs
        self._ttl = ttl
        self._codec = codec
        self._type = result_type(function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The stored result of this call, or the function's, which is then stored."""
        value: R = get_or_set(
            self._store,
            self._codecs,
            self._keys.key(args, kwargs),
            functools.partial(self.__wrapped__, *args, **kwargs),
            self._ttl,
            timeout=None,
            codec=self._codec,
            as_type=self._type,
        )
        return value

    def __get__(self, instance: object, owner: type | None = None) -> Callable[..., R]:
        """As a method, binds its instance like any function; leave `self` out of the key with `ignore`."""
        return self if instance is None else MethodType(self, instance)

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key under which this call's result is stored."""
        return self._keys.key(args, kwargs)

    def forget(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Deletes this call's result; whether there was one."""
        return self._store.delete(self._keys.key(args, kwargs))

    def forget_all(self) -> int:
        """Deletes the results of all calls; how many there were."""
        return self._store.delete_many(list(self._store._scan(self._keys.prefix, False)))


class AsyncMemoized(Generic[P, R]):
    """A memoized asynchronous function, made by `thermae.aio.Store.memoize`: await it as before."""

    def __init__(
        self,
        function: Callable[P, Awaitable[R]],
        find: Callable[[str, Callable[[], Awaitable[R]], Any], Awaitable[R]],
        forget: Callable[[str], Awaitable[bool]],
        *,
        name: str | None,
        ignore: Collection[str],
    ) -> None:
        self._keys = CallKeys(function, name, ignore)
        functools.update_wrapper(self, function)
        self.__wrapped__ = function
        self._find = find
        self._forget = forget
        self._type = result_type(function)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The stored result of this call, or the function's, which is then stored."""
        return await self._find(
            self._keys.key(args, kwargs), lambda: self.__wrapped__(*args, **kwargs), self._type
        )

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key under which this call's result is stored."""
        return self._keys.key(args, kwargs)

    async def forget(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Deletes this call's result; whether there was one."""
        return await self._forget(self._keys.key(args, kwargs))


def _name_of(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", type(function).__name__)
    return f"{getattr(function, '__module__', '?')}.{name}"
