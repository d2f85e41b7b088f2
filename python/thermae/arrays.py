"""NumPy arrays as bytes: a header of our own, then the elements in C order from a multiple of 64 bytes on.

The header, little-endian: version (u8, 1), kind (u8, 0 array or 1 scalar), dimensions (u16), header length in
bytes (u32, a multiple of 64), descriptor length in bytes (u32), four zero bytes, the shape (u64 each), and
the dtype's descriptor as the text of a Python literal. Any buffer that has these bytes at an aligned address
is an array without a copy. NumPy's own .npy format was rejected: its header is parsed at a multiple of the
cost, and it may ask for pickle.
"""

from __future__ import annotations

import ast
import math
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from thermae.errors import WrongTypeError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_FIXED = struct.Struct("<BBHII4x")
_VERSION = 1
_ARRAY, _SCALAR = 0, 1
_ALIGNMENT_BYTES = 64
_DIMENSIONS_MAX = 64
_DESCRIPTOR_BYTES_MAX = 64 << 10
# Kinds of dtypes whose elements are their bytes.
_KINDS = "biufcmMSUV"


def has_encoding(value: npt.NDArray[Any] | np.generic) -> bool:
    """Whether an array or a NumPy scalar is its elements, and they their bytes; all others need a codec.

    Example:
        >>> import numpy as np
        >>> has_encoding(np.arange(3)), has_encoding(np.array([print])), has_encoding(np.ma.masked_array([1]))
        (True, False, False)
    """
    import numpy as np

    is_plain = not isinstance(value, np.ndarray) or type(value) in (np.ndarray, np.memmap)
    return is_plain and _is_bytes(value.dtype)


def _is_bytes(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in _KINDS and not dtype.hasobject


def encode(value: npt.NDArray[Any] | np.generic) -> bytes:
    """The bytes of an array or of a NumPy scalar.

    Raises:
        WrongTypeError: The elements are Python objects or have no bytes of fixed size, or the array is of
            a subclass that means more than its elements.
    """
    import numpy as np

    if isinstance(value, np.ndarray) and type(value) not in (np.ndarray, np.memmap):
        raise WrongTypeError(
            f"an array of the class {type(value).__name__} means more than its elements: "
            'store numpy.asarray(array), or name a codec that keeps it, such as codec="pickle"'
        )
    dtype = value.dtype
    if not _is_bytes(dtype):
        raise WrongTypeError(
            f"an array of dtype {dtype} refers to objects instead of holding bytes: "
            'convert it with astype(), store value.tolist(), or name codec="pickle"'
        )
    kind = _ARRAY if isinstance(value, np.ndarray) else _SCALAR
    elements: npt.NDArray[Any] = np.asarray(value, order="C")
    descriptor = repr(np.lib.format.dtype_to_descr(dtype)).encode()
    used_bytes = _FIXED.size + 8 * elements.ndim + len(descriptor)
    header_bytes = -(-used_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    header = b"".join(
        (
            _FIXED.pack(_VERSION, kind, elements.ndim, header_bytes, len(descriptor)),
            struct.pack(f"<{elements.ndim}Q", *elements.shape),
            descriptor,
            bytes(header_bytes - used_bytes),
        )
    )
    # Seen as bytes first: dates, for one, have no buffer of their own.
    return b"".join((header, elements.reshape(-1).view(np.uint8).data if elements.nbytes else b""))


def decode(data: bytes | bytearray | memoryview) -> npt.NDArray[Any] | np.generic:
    """An array on the memory of `data`, writable where that is; or the scalar, copied.

    Raises:
        WrongTypeError: These are not the bytes of an array.
    """
    import numpy as np

    if len(data) < _FIXED.size:
        raise _damaged("it is shorter than a header")
    version, kind, dimensions, header_bytes, descriptor_bytes = _FIXED.unpack_from(data)
    if version != _VERSION or kind not in (_ARRAY, _SCALAR):
        raise _damaged(f"its header has version {version} and kind {kind}")
    descriptor_at = _FIXED.size + 8 * dimensions
    if (
        dimensions > _DIMENSIONS_MAX
        or descriptor_bytes > _DESCRIPTOR_BYTES_MAX
        or not descriptor_at + descriptor_bytes <= header_bytes <= len(data)
    ):
        raise _damaged("its header is longer than itself")
    shape = struct.unpack_from(f"<{dimensions}Q", data, _FIXED.size)
    dtype = _dtype(bytes(data[descriptor_at : descriptor_at + descriptor_bytes]))
    if math.prod(shape) * dtype.itemsize != len(data) - header_bytes:
        raise _damaged(f"shape {shape} of dtype {dtype} has another size")
    try:
        array: npt.NDArray[Any] = np.ndarray(shape, dtype, buffer=data, offset=header_bytes)
    except (ArithmeticError, MemoryError, TypeError, ValueError) as error:
        raise _damaged(str(error)) from error
    if kind == _SCALAR:
        if array.ndim != 0:
            raise _damaged(f"a scalar has no shape, and this one has {array.shape}")
        scalar: np.generic[Any] = array[(0,) * array.ndim]
        return scalar
    return array


@lru_cache(maxsize=256)
def _dtype(descriptor: bytes) -> np.dtype[Any]:
    import numpy as np

    try:
        dtype: np.dtype[Any] = np.lib.format.descr_to_dtype(ast.literal_eval(descriptor.decode()))
    except (
        # All that the two parsers raise for what is no descriptor; warnings, where those are errors.
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        RecursionError,
        SyntaxError,
        TypeError,
        ValueError,
        Warning,
    ) as error:
        raise _damaged("its dtype is not understood") from error
    if not _is_bytes(dtype):
        # Bytes of a store are never taken for addresses of objects.
        raise _damaged("its dtype refers to objects")
    return dtype


def _damaged(why: str) -> WrongTypeError:
    return WrongTypeError(f"a value is marked as a NumPy array and is none ({why}): ask who wrote it")
