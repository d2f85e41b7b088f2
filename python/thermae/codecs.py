"""From Python values to bytes and back, for everything that is no plain scalar.

A record's header notes the encoding as a number; the native module encodes and decodes bytes, str, int,
float, bool and None itself, and asks here for the rest. What has no encoding of its own goes to one *codec*:
MessagePack, unless another is named when the store is opened or in the call. Pickle runs code that is in the
data, so it is only ever used where it is named, for reading as for writing: whoever may write to the store
could otherwise run code in every reader.

Safe across threads and after fork: nothing here changes after it was made.
"""

from __future__ import annotations

import enum
import pickle
import sys
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from thermae import arrays, tables
from thermae.encodings import (
    ARRAY,
    ARROW,
    BYTES,
    FLOAT,
    INT,
    MESSAGEPACK,
    PICKLE,
    STR,
    USER_ENCODING_MAX,
    USER_ENCODING_MIN,
)
from thermae.errors import InvalidOptionError, WrongTypeError
from thermae.options import AnyCodec, Codec

if TYPE_CHECKING:
    from thermae.messagepack import MessagePackCodec


class PickleCodec:
    """Python's pickle: any value, but whoever can write to the store can run code in whoever reads it."""

    encoding: Final = PICKLE

    def encode(self, value: Any, /) -> bytes:
        """The value, pickled."""
        try:
            return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
            raise WrongTypeError(
                f"a value of type {type(value).__name__} cannot be pickled ({error}): "
                "store what it is made of"
            ) from error

    def decode(self, data: bytes, /) -> Any:
        """The value; runs whatever code its writer chose."""
        return pickle.loads(data)  # noqa: S301 - reached only where the user named it


_PICKLE = PickleCodec()


@cache
def _messagepack() -> MessagePackCodec:
    # Imported when a value needs it: msgspec takes as long to import as all the rest.
    from thermae.messagepack import MESSAGEPACK_CODEC

    return MESSAGEPACK_CODEC


def _named(name: str) -> Codec | None:
    if name == "msgpack":
        return _messagepack()
    return _PICKLE if name == "pickle" else None


def codec_of(name: AnyCodec) -> Codec:
    """The codec of a name, or the codec itself.

    Raises:
        InvalidOptionError: The name is unknown, or the codec's number is not one of its own.

    Example:
        >>> codec_of("pickle").encoding
        9
    """
    if isinstance(name, str):
        codec = _named(name)
        if codec is None:
            raise InvalidOptionError(
                f'the codec {name!r} is unknown: use "msgpack", "pickle", '
                "or an object with encoding, encode and decode"
            )
        return codec
    if not isinstance(name, Codec):
        raise InvalidOptionError(
            f"a codec must be a name or an object with encoding, encode and decode, not {type(name).__name__}"
        )
    own = isinstance(name, (type(_messagepack()), PickleCodec))
    if not own and not USER_ENCODING_MIN <= name.encoding <= USER_ENCODING_MAX:
        raise InvalidOptionError(
            f"the codec {type(name).__name__} has encoding {name.encoding}: "
            f"choose one from {USER_ENCODING_MIN} to {USER_ENCODING_MAX}"
        )
    return name


class Codecs:
    """The codecs of one open store: its default, and those that every store has.

    Example:
        >>> codecs = Codecs("msgpack")
        >>> encoding, data = codecs.encode({"a": [1, 2]}, None)
        >>> encoding, codecs.decode(encoding, data, None, None)
        (6, {'a': [1, 2]})
    """

    __slots__ = ("_chosen",)

    def __init__(self, default: AnyCodec) -> None:
        # MessagePack is looked up when a value needs it: stores are opened before that.
        is_messagepack = isinstance(default, str) and default == "msgpack"
        self._chosen = None if is_messagepack else codec_of(default)

    @property
    def default(self) -> Codec:
        """For what has no encoding of its own, where the call names none."""
        return _messagepack() if self._chosen is None else self._chosen

    def encode(self, value: Any, codec: AnyCodec | None) -> tuple[int, bytes]:
        """A value's encoding and bytes; `codec` is what the call named, if anything.

        Raises:
            WrongTypeError: The value has no bytes.
        """
        if isinstance(value, (bytearray, memoryview)):
            return BYTES, bytes(value)
        if _is_from("numpy", value, "ndarray", "generic"):
            if arrays.has_encoding(value):
                return ARRAY, arrays.encode(value)
        elif _is_from("pyarrow", value, "Table", "RecordBatch"):
            return ARROW, tables.encode(value)
        chosen = self.default if codec is None else codec_of(codec)
        if chosen is _messagepack():
            if _is_from("numpy", value, "ndarray", "generic"):
                # Refused there, with the reason.
                return ARRAY, arrays.encode(value)
            base = _scalar_of_subclass(value)
            if base is not None:
                return base
        data = chosen.encode(value)
        if type(data) is not bytes:
            raise WrongTypeError(
                f"the codec {type(chosen).__name__} encoded to {type(data).__name__}: "
                "its encode must return bytes"
            )
        return chosen.encoding, data

    def decode(self, encoding: int, data: bytes | bytearray, codec: AnyCodec | None, kind: Any) -> Any:
        """The value of a record that is no plain scalar, as `kind` where one is given.

        Raises:
            WrongTypeError: The value needs a codec that nobody named, or does not decode.
        """
        if encoding == MESSAGEPACK:
            return _messagepack().decode_as(bytes(data), Any if kind is None else kind)
        if encoding == ARRAY:
            value: Any = arrays.decode(data)
        elif encoding == ARROW:
            value = tables.decode(bytes(data))
        else:
            value = self._named(encoding, codec).decode(bytes(data))
        return value if kind is None else self.convert(value, kind)

    def _named(self, encoding: int, codec: AnyCodec | None) -> Codec:
        for chosen in (None if codec is None else codec_of(codec), self.default):
            if chosen is not None and chosen.encoding == encoding:
                return chosen
        if encoding == PICKLE:
            raise WrongTypeError(
                "the value is pickled, and reading it may run code that its writer chose: "
                'if you trust every writer of this store, name codec="pickle" in the call or when opening it'
            )
        raise WrongTypeError(
            f"the value has encoding {encoding}, which no codec here reads: "
            "name the codec that it was written with, in the call or when opening the store"
        )

    def convert(self, value: Any, kind: Any) -> Any:
        """The value, checked to be of `kind`, converted where that loses nothing.

        Raises:
            WrongTypeError: It is of another type.
        """
        try:
            return _messagepack().convert(value, kind)
        except WrongTypeError:
            if _is_from("numpy", value, "generic") and value.dtype.kind in "biufSU":
                plain = value.item()
                # The longest float of NumPy's has no plain form.
                if not _is_from("numpy", plain, "generic"):
                    return self.convert(plain, kind)
            raise

    def view(self, encoding: int, data: memoryview) -> Any:
        """What `Store.view` returns: an array or a table on these bytes, else the bytes themselves."""
        if encoding == ARRAY:
            return arrays.decode(data)
        if encoding == ARROW:
            return tables.decode(data)
        return data

    def is_read_as_written(self, value: Any) -> bool:
        """Whether a value comes back equal and of the same type; a tuple, for one, comes back as a list."""
        if type(value) in (bytes, str, int, float, bool, type(None)):
            return True
        return _is_from("numpy", value, "ndarray", "generic") and arrays.has_encoding(value)


def _is_from(package: str, value: object, *names: str) -> bool:
    """Whether a value is of a class of a package, without importing it: else there is no such value."""
    module = sys.modules.get(package)
    return module is not None and isinstance(value, tuple(getattr(module, name) for name in names))


def _scalar_of_subclass(value: object) -> tuple[int, bytes] | None:
    """Subclasses of scalars are stored as what they derive from; enumerations are left to their values."""
    if isinstance(value, enum.Enum):
        return None
    if isinstance(value, str):
        try:
            return STR, str.encode(value)
        except UnicodeEncodeError as error:
            raise WrongTypeError(
                "a str with lone surrogates has no UTF-8: store "
                'value.encode("utf-8", "surrogatepass") instead'
            ) from error
    if isinstance(value, bytes):
        return BYTES, bytes(value)
    if isinstance(value, int):
        try:
            return INT, int.__repr__(value).encode()
        except ValueError as error:
            raise WrongTypeError(
                "an integer of this many digits has no text in Python: store it as bytes"
            ) from error
    if isinstance(value, float):
        return FLOAT, float.__repr__(value).encode()
    return None
