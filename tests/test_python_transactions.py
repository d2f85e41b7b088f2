"""Transactions: all or nothing, checked against everybody else's changes."""

from __future__ import annotations

import multiprocessing
import threading
import time

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
