"""Transactions: all or nothing, checked against everybody else's changes."""

from __future__ import annotations

import multiprocessing
import threading
import time
from typing import Any

import pytest

import thermae
from thermae.transactions import Transaction

SPAWN = multiprocessing.get_context("spawn")


def test_commit(store: thermae.Store) -> None:
    store["a"] = 1
    with store.transaction() as tx:
        tx["b"] = tx["a"] + 1
        tx.set("c", [1, 2], ttl=60)
        del tx["a"]
        assert "b" not in store
        assert "a" in store
    assert store == {"b": 2, "c": [1, 2]}
    assert store.ttl("c") == pytest.approx(60, abs=2)


def test_a_transaction_sees_its_own_changes(store: thermae.Store) -> None:
    store["a"] = 1
    with store.transaction() as tx:
        assert tx.get("nothing") is None
        assert tx.get("nothing", 5) == 5
        assert "a" in tx
        tx["a"] = (1, 2)
        assert tx[b"a"] == [1, 2]
        assert tx.delete("a") is True
        assert "a" not in tx
        assert tx.delete("a") is False
        with pytest.raises(KeyError):
            tx["a"]
        with pytest.raises(KeyError):
            del tx["a"]
        tx["a"] = 3
    assert store["a"] == 3


def test_a_key_is_told_of_and_deleted_without_being_read(store: thermae.Store) -> None:
    """Both once decoded the value, which a pickled one refuses."""
    store.set("pickled", 1j, codec="pickle")
    with store.transaction() as tx:
        assert "pickled" in tx
        assert "nothing" not in tx
        with pytest.raises(thermae.WrongTypeError):
            tx["pickled"]
        assert tx.get("pickled", codec="pickle") == 1j
        assert tx.delete("pickled") is True
        assert tx.delete("nothing") is False
    assert len(store) == 0


def test_what_was_told_of_a_key_must_still_hold(store: thermae.Store) -> None:
    store["key"] = 1
    for look in (lambda tx: "key" in tx, lambda tx: tx.delete("key"), lambda tx: (("key" in tx), tx["key"])):
        tx = store.transaction()
        assert look(tx)
        tx["other"] = 1
        store["key"] = 2
        with pytest.raises(thermae.TransactionConflictError):
            tx.commit()
    tx = store.transaction()
    assert "key" in tx
    store["key"] = 3
    # Read anew, but the first look counts.
    assert tx["key"] == 3
    with pytest.raises(thermae.TransactionConflictError):
        tx.commit()
    assert store == {"key": 3}


def test_types_and_codecs_are_named_as_on_the_store(store: thermae.Store) -> None:
    store["pair"] = (1, "a")
    with store.transaction() as tx:
        assert tx.get("pair") == [1, "a"]
        assert tx.get("pair", as_type=tuple[int, str]) == (1, "a")
        pair = tx.get("pair")
        assert tx.get("pair") is pair
        with pytest.raises(thermae.WrongTypeError):
            tx.get("pair", as_type=int)
        assert tx.get("nothing", 5, as_type=int) == 5
        tx.set("complex", 1j, ttl=60, codec="pickle")
        assert tx.get("complex", codec="pickle") == 1j
        with pytest.raises(thermae.WrongTypeError, match='codec="pickle"'):
            tx.get("complex")
        tx.set("own", (1, 2))
        assert tx.get("own", as_type=tuple[int, int]) == (1, 2)
    assert store.get("complex", codec="pickle") == 1j


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), "60", True])
def test_a_lifetime_that_is_none_is_refused_at_once(store: thermae.Store, ttl: Any) -> None:
    with store.transaction() as tx:
        with pytest.raises((thermae.InvalidOptionError, thermae.WrongTypeError), match="ttl"):
            tx.set("key", 1, ttl=ttl)
        assert "key" not in tx
    assert len(store) == 0


def test_an_exception_stores_nothing(store: thermae.Store) -> None:
    def change_and_fail() -> None:
        with store.transaction() as tx:
            tx["a"] = 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change_and_fail()
    assert len(store) == 0


def test_a_conflict_stores_nothing(store: thermae.Store) -> None:
    store["a"] = 1
    tx = store.transaction()
    tx["b"] = tx["a"]
    store["a"] = 2
    with pytest.raises(thermae.TransactionConflictError):
        tx.commit()
    assert store == {"a": 2}
    tx = store.transaction()
    assert "new" not in tx
    tx["b"] = 1
    store["new"] = 1
    with pytest.raises(thermae.TransactionConflictError):
        tx.__exit__(None, None, None)
    assert "b" not in store


def test_reading_alone_is_checked_too(store: thermae.Store) -> None:
    store.set_many({"a": 1, "b": 1})
    tx = store.transaction()
    assert tx["a"] == 1
    store["a"] = 5
    assert tx["b"] == 1
    with pytest.raises(thermae.TransactionConflictError):
        tx.commit()
    with store.transaction() as tx:
        assert tx["a"] + tx["b"] == 6


def test_writing_blindly_conflicts_with_nobody(store: thermae.Store) -> None:
    with store.transaction() as tx:
        tx["a"] = 1
        store["a"] = 2
    assert store["a"] == 1


def test_a_transaction_is_over_once(store: thermae.Store) -> None:
    with store.transaction() as tx:
        tx["a"] = 1
        tx.commit()
    assert store["a"] == 1
    with store.transaction() as tx:
        tx["a"] = 2
        tx.rollback()
    assert store["a"] == 1
    for use in (lambda: tx.get("a"), lambda: tx.set("a", 3), tx.commit, tx.rollback):
        with pytest.raises(thermae.StoreClosedError, match="over"):
            use()
    with store.transaction():
        pass


def test_bad_keys_and_values(store: thermae.Store) -> None:
    with store.transaction() as tx:
        with pytest.raises(thermae.WrongTypeError):
            tx[1] = 1  # type: ignore[index]
        with pytest.raises(thermae.InvalidKeyError):
            tx["\ud800"] = 1
        with pytest.raises(thermae.WrongTypeError):
            tx["key"] = object()
        tx["fine"] = 1
    assert store == {"fine": 1}
    with pytest.raises(thermae.InvalidOptionError), store.transaction() as tx:
        tx.set("key", 1, ttl=-1)
    assert store == {"fine": 1}


def test_transact_without_a_function_is_a_transaction(store: thermae.Store) -> None:
    with store.transact() as tx:
        assert isinstance(tx, thermae.Transaction)
        tx.set("a", 1)
    assert store == {"a": 1}


def test_what_cannot_be_transacted(store: thermae.Store) -> None:
    def change(tx: Transaction) -> None:
        tx["a"] = 1

    with pytest.raises(thermae.WrongTypeError, match="function"):
        store.transact(5)  # type: ignore[call-overload]
    for attempts_max in ("x", 1.5, None, True):
        with pytest.raises(thermae.WrongTypeError, match="attempts_max"):
            store.transact(change, attempts_max=attempts_max)  # type: ignore[arg-type]
    for attempts_max in (0, -1):
        with pytest.raises(thermae.InvalidOptionError, match="attempts_max"):
            store.transact(change, attempts_max=attempts_max)
    assert len(store) == 0


def test_transact_tries_again(store: thermae.Store) -> None:
    store["a"] = 1
    attempts: list[int] = []

    def change(tx: Transaction) -> int:
        attempts.append(1)
        value: int = tx["a"]
        if len(attempts) < 3:
            store["a"] = value + 10
        tx["a"] = value + 1
        return value

    assert store.transact(change) == 21
    assert store["a"] == 22
    assert len(attempts) == 3
    attempts.clear()
    with pytest.raises(thermae.TransactionConflictError):
        store.transact(change, attempts_max=2)
    with pytest.raises(thermae.InvalidOptionError):
        store.transact(change, attempts_max=0)


def _move(location: str, seed: int) -> None:
    with thermae.open(location, create=False) as store:
        for step in range(100):
            giver, taker = f"account:{(seed + step) % 5}", f"account:{(seed * 3 + step * 2 + 1) % 5}"
            if giver == taker:
                continue

            def move(tx: Transaction, giver: str = giver, taker: str = taker) -> None:
                tx[giver] -= 1
                tx[taker] += 1

            store.transact(move, attempts_max=10_000)


def test_money_is_neither_made_nor_lost_among_processes(store: thermae.Store, location: str) -> None:
    store.set_many({f"account:{number}": 100 for number in range(5)})
    processes = [SPAWN.Process(target=_move, args=(location, seed)) for seed in range(3)]
    for process in processes:
        process.start()
    names = [f"account:{number}" for number in range(5)]
    checked = 0
    while any(process.is_alive() for process in processes):
        try:
            with store.transaction() as tx:
                total = sum(tx[name] for name in names)
        except thermae.TransactionConflictError:
            time.sleep(0)
            continue
        assert total == 500
        checked += 1
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert checked > 0
    assert sum(store.get_many(names)) == 500


def test_threads_that_count_together(store: thermae.Store) -> None:
    store["number"] = 0

    def increase(tx: Transaction) -> None:
        tx["number"] += 1

    def work() -> None:
        for _ in range(100):
            store.transact(increase, attempts_max=10_000)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store["number"] == 400


def test_what_transactions_store_and_delete_is_counted(location: str) -> None:
    with thermae.open(location, hot="16MiB") as store:
        store["old"] = 1
        before = store.stats()
        with store.transaction() as transaction:
            transaction["new"] = 1
            transaction["newer"] = 2
            del transaction["old"]
        after = store.stats()
        assert after["sets"] - before["sets"] == 2
        assert after["deletes"] - before["deletes"] == 1


def test_a_conflict_names_what_changed_in_words(location: str) -> None:
    with thermae.open(location, hot="16MiB") as store:
        store["key"] = 1
        transaction = store.transaction()
        with pytest.raises(
            thermae.TransactionConflictError, match=r"it saw version \d+, now there is no such key"
        ):
            _overtaken(store, transaction)


def _overtaken(store: thermae.Store, transaction: Transaction) -> None:
    with transaction:
        transaction["other"] = transaction["key"]
        del store["key"]
