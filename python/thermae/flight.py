"""Single flight: of all threads and processes that miss a key at once, one computes it and the others wait.

The one is who gets the lock that is named after the key; the engine frees it if that process dies, and then
the next one computes. A value that is there is answered without touching the lock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from thermae import _thermae
from thermae.codecs import Codecs
from thermae.errors import WrongTypeError
from thermae.locks import Lock
from thermae.options import AnyCodec

_MISSING = object()


def lock_name(key: str | bytes) -> str:
    """The name of the lock under which a key is computed; short, whatever the key's length.

    Example:
        >>> lock_name("k") == lock_name(b"k"), lock_name("k")[:11]
        (True, 'get_or_set:')
    """
    return "get_or_set:" + hashlib.blake2b(_thermae.key_bytes(key), digest_size=16).hexdigest()


def get_or_set(
    store: _thermae.Store,
    codecs: Codecs,
    key: str | bytes,
    make: Callable[[], Any],
    ttl: float | None,
    *,
    timeout: float | None,
    codec: AnyCodec | None,
    as_type: Any,
) -> Any:
    """The key's value, made and stored by one caller where it is missing; see `Store.get_or_set`."""
    value = store.get(key, _MISSING, codec=codec, as_type=as_type)
    if value is not _MISSING:
        return value
    with Lock(store, lock_name(key), timeout):
        value = store.get(key, _MISSING, codec=codec, as_type=as_type)
        if value is not _MISSING:
            return value
        return keep(store, codecs, key, make(), ttl, codec=codec, as_type=as_type)


def keep(
    store: _thermae.Store,
    codecs: Codecs,
    key: str | bytes,
    made: Any,
    ttl: float | None,
    *,
    codec: AnyCodec | None,
    as_type: Any,
) -> Any:
    """Stores what was made, and returns it as every later reader will see it.

    Raises:
        WrongTypeError: It has no encoding, or is not of type `as_type`: no later reader could have it, and
            nothing is stored.
    """
    if as_type is None and codecs.is_read_as_written(made):
        store.set(key, made, ttl, codec=codec)
        return made
    encoding, data = store._encode(made, codec)
    try:
        value = store._decode(encoding, data, codec, as_type)
    except WrongTypeError as error:
        raise WrongTypeError(
            f"what was made for the key {key!r} is not stored, because it would not be read back: {error}"
        ) from error
    store._set_encoded(key, encoding, data, ttl)
    return value
