"""Encodings of values, as the numbers that records' headers note."""

from __future__ import annotations

from typing import Final

BYTES, STR, INT, FLOAT, BOOL, NONE, MESSAGEPACK, ARRAY, ARROW, PICKLE = range(10)
USER_ENCODING_MIN: Final = 10
USER_ENCODING_MAX: Final = 255
