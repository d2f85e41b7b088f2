"""MessagePack, by msgspec: what becomes of values that have no encoding of their own.

A module of its own because msgspec takes as long to import as all the rest of the package.

Safe across threads and after fork: nothing here changes after it was made.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import msgspec

from thermae.encodings import MESSAGEPACK
from thermae.errors import WrongTypeError

# Made once: a codec that is made for one value costs more than the value.
_encode_plain = msgspec.msgpack.Encoder().encode
_decode_plain = msgspec.msgpack.Decoder().decode


@lru_cache(maxsize=256)
def _hashable_decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    try:
        return _hashable_decoder(kind)
    except TypeError:
        # Either a type without a hash, or none that msgspec knows; the second raises again.
        return msgspec.msgpack.Decoder(kind)


class MessagePackCodec:
    """MessagePack by msgspec: lists, dicts, and what msgspec turns into those."""

    encoding: Final = MESSAGEPACK

    def encode(self, value: Any, /) -> bytes:
        """The value as MessagePack."""
        try:
            return _encode_plain(value)
        except (TypeError, OverflowError, RecursionError, ValueError) as error:
            raise WrongTypeError(
                f"a value of type {type(value).__name__} has no encoding ({error}): store what it is made of "
                'as dict or list, or name a codec (codec="pickle" for trusted stores)'
            ) from error

    def decode(self, data: bytes, /) -> Any:
        """The value as the nearest plain Python objects."""
        return self.decode_as(data, Any)

    def decode_as(self, data: bytes, kind: Any) -> Any:
        """The value as `kind`, checked."""
        try:
            return (_decode_plain if kind is Any else _decoder(kind).decode)(data)
        except (
            msgspec.MsgspecError,
            MemoryError,
            OverflowError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise WrongTypeError(
                f"a MessagePack value does not decode as {_name_of(kind)}: {error}; ask who wrote it, "
                "or read it without a type"
            ) from error

    def convert(self, value: Any, kind: Any) -> Any:
        """The value, checked to be of `kind`, converted where that loses nothing."""
        try:
            return msgspec.convert(value, kind)
        except (msgspec.MsgspecError, OverflowError, RecursionError, TypeError, ValueError) as error:
            raise WrongTypeError(
                f"a stored {type(value).__name__} is not a {_name_of(kind)}: {error}; read it without a type"
            ) from error


# The only one: stores compare their codec with it.
MESSAGEPACK_CODEC: Final = MessagePackCodec()


def _name_of(kind: Any) -> str:
    return getattr(kind, "__name__", None) or str(kind)
