"""Options of `open` that contradict each other or the store, and what the refusals name."""

from __future__ import annotations

from typing import Any

import pytest

import thermae


@pytest.mark.parametrize("name", ["hot", "warm", "cold", "frame"])
def test_a_size_that_is_not_understood_is_named(location: str, name: str) -> None:
    options: Any = {name: "12 parsecs"}
    with pytest.raises(thermae.InvalidOptionError, match=f"^{name}: .*12 parsecs"):
        thermae.open(location, **options)


def test_a_flag_is_no_number_of_processes(location: str) -> None:
    with pytest.raises(thermae.InvalidOptionError, match="participants_max = True"):
        thermae.open(location, participants_max=True)


def test_a_reader_cannot_change_what_all_share(directory_store: thermae.Store) -> None:
    """It once asked for another durability and got none, without a word."""
    place = directory_store.location
    with pytest.raises(thermae.InvalidOptionError, match="when_full"):
        thermae.open(place, read_only=True, when_full="error")
    with pytest.raises(thermae.InvalidOptionError, match="durability"):
        thermae.open(place, read_only=True, durability="always")
    with thermae.open(place, read_only=True, durability="everysec", when_full="evict") as reader:
        assert (reader.durability, reader.when_full) == ("everysec", "evict")
    directory_store.durability = "always"
    with thermae.open(place, read_only=True, durability="always") as reader:
        assert reader.durability == "always"


def test_repair_is_yes_or_no(store: thermae.Store) -> None:
    for repair in ("no", 0, None):
        with pytest.raises(thermae.WrongTypeError, match="repair"):
            store.check(repair=repair)  # type: ignore[arg-type]
