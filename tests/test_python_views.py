"""A view keeps its bytes, whatever happens to the key and the store."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import thermae


def test_a_view_is_read_only_and_of_the_bytes(store: thermae.Store) -> None:
    store["key"] = b"some bytes"
    view = store.view("key")
    assert isinstance(view, memoryview)
    assert view.readonly
    assert (view.format, view.itemsize, view.ndim, view.nbytes) == ("B", 1, 1, 10)
    assert view == memoryview(b"some bytes")
    assert bytes(view[5:]) == b"bytes"
    with pytest.raises(TypeError):
        view[0] = 1
    owner: Any = view.obj
    assert len(owner) == 10


def test_views_of_missing_and_empty_values(store: thermae.Store) -> None:
    assert store.view("nothing") is None
    assert store.view("nothing", 5) == 5
    store["empty"] = b""
    assert bytes(store.view("empty")) == b""


@pytest.mark.parametrize("size", [1, 1000, 300_000, 3_000_000])
def test_a_view_outlives_its_key_and_its_store(store: thermae.Store, location: str, size: int) -> None:
    value = bytes(range(256)) * (size // 256 + 1)
    store["key"] = value
    view = store.view("key")
    store["key"] = b"other"
    assert view == value
    store.delete("key")
    assert view == value
    # Enough to go round the hot tier several times, where there is room to evict.
    with thermae.open(location) as other:
        for number in range(600):
            other[f"filler:{number % 50}"] = b"x" * 100_000
    assert view == value
    store.close()
    assert view == value
    del store
    gc.collect()
    assert view == value
    view.release()


def test_an_array_view_keeps_its_memory(store: thermae.Store) -> None:
    array = np.arange(10_000)
    store["array"] = array
    part = store.view("array")[100:200]
    store["array"] = np.zeros(10_000)
    for number in range(600):
        store[f"filler:{number % 50}"] = b"x" * 100_000
    store.close()
    np.testing.assert_array_equal(part, array[100:200])
    with pytest.raises(ValueError, match="read-only"):
        part[0] = 1


def test_many_views_at_once(store: thermae.Store) -> None:
    for number in range(500):
        store[str(number)] = b"%d" % number
    views = [store.view(str(number)) for number in range(500)]
    store.clear()
    assert [int(bytes(view)) for view in views] == list(range(500))
