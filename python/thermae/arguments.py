"""Numbers, flags and names that Python verbs take: what is none of them is refused, and told what to give.

The compiled module does the same for the verbs that it has itself. Truth and numbers are not guessed: "no"
would be true, and True would be 1.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable
from typing import SupportsFloat, SupportsIndex

from thermae.errors import InvalidOptionError, WrongTypeError


def checked_count(name: str, count: object) -> int:
    """A number of 1 or more.

    Raises:
        WrongTypeError: It is no integer.
        InvalidOptionError: It is below 1.

    Example:
        >>> checked_count("threads_max", 8)
        8
        >>> checked_count("threads_max", 0)
        Traceback (most recent call last):
        ...
        thermae.errors.InvalidOptionError: threads_max = 0 is too few: give 1 or more
    """
    if isinstance(count, bool) or not isinstance(count, SupportsIndex):
        raise WrongTypeError(f"{name} must be an int, not {type(count).__name__}: give 1 or more")
    number = operator.index(count)
    if number < 1:
        raise InvalidOptionError(f"{name} = {number} is too few: give 1 or more")
    return number


def checked_flag(name: str, flag: object) -> bool:
    """True or False.

    Raises:
        WrongTypeError: It is neither.

    Example:
        >>> checked_flag("repair", True)
        True
    """
    if not isinstance(flag, bool):
        raise WrongTypeError(f"{name} must be True or False, not {type(flag).__name__}")
    return flag


def checked_timeout(timeout: object) -> float | None:
    """Seconds to wait; None is for ever, 0 not at all.

    Raises:
        WrongTypeError: It is no number.
        InvalidOptionError: It is negative, or not a number.

    Example:
        >>> checked_timeout(1), checked_timeout(None)
        (1.0, None)
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (SupportsFloat, SupportsIndex)):
        raise WrongTypeError(f"timeout must be a number of seconds or None, not {type(timeout).__name__}")
    try:
        seconds = float(timeout)
    except OverflowError:
        seconds = math.inf
    if not seconds >= 0:
        raise InvalidOptionError(
            f"timeout = {seconds} is no time to wait: give seconds, 0 not to wait, or None for ever"
        )
    return seconds


def checked_collection(name: str, names: object) -> Collection[str]:
    """A collection of names; one name is none, whose letters would be taken for names.

    Raises:
        WrongTypeError: It is one name, or nothing that has members.

    Example:
        >>> checked_collection("ignore", ["self"])
        ['self']
    """
    if isinstance(names, (str, bytes)):
        raise WrongTypeError(f"{name} must be a collection of names, not one: write [{names!r}]")
    if not isinstance(names, Iterable):
        raise WrongTypeError(f"{name} must be a collection of names, not {type(names).__name__}")
    return list(names)
