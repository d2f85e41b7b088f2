"""The hierarchy of exceptions is the engine's enum, one to one."""

from __future__ import annotations

import copy
import errno
import inspect
import pickle

import pytest

import thermae
from thermae import _thermae, errors

CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, errors.ThermaeError) and kind is not errors.ThermaeError
}


def test_the_engines_variants_and_the_classes_are_the_same_set() -> None:
    assert set(_thermae.ERROR_CLASSES.values()) == set(CLASSES)
    assert len(_thermae.ERROR_CLASSES) == len(CLASSES)


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES.keys())
def test_every_class_is_public_and_explained(kind: type[thermae.ThermaeError]) -> None:
    assert getattr(thermae, kind.__name__) is kind
    assert kind.__name__ in thermae.__all__
    assert kind.__doc__
    assert kind.__name__.endswith("Error")


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES.keys())
def test_exceptions_cross_processes(kind: type[thermae.ThermaeError]) -> None:
    error = kind("what was wrong")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert str(again) == "what was wrong"


def test_python_bases() -> None:
    assert issubclass(thermae.StoreIOError, OSError)
    assert issubclass(thermae.StorePermissionError, PermissionError)
    assert issubclass(thermae.LockTimeoutError, TimeoutError)
    assert issubclass(thermae.CounterOverflowError, OverflowError)
    for kind in (thermae.InvalidKeyError, thermae.InvalidOptionError, thermae.ValueTooLargeError):
        assert issubclass(kind, ValueError)
    assert thermae.StoreIOError(errno.ENOSPC, "no space").errno == errno.ENOSPC
