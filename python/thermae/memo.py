"""Memoizing functions in a store: `Store.memoize` and its asynchronous twin.

A call's key is made of the function's name and of its arguments, in the order of the signature, so that
`f(1, b=2)` and `f(1, 2)` are one key. Every value in an argument, however deep, goes into the key with its
class, so that `f(1)` and `f(1.0)` are two, and `f([(1,)])` and `f([[1]])`. What the function is annotated to
return is what a stored result is decoded as, so that a tuple or a dataclass comes back as what it was.

Two functions of one name would return each other's results; so what has no name of its own is refused unless
it is given one.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import typing
from collections.abc import Awaitable, Callable, Collection
from types import MethodType, ModuleType
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

from thermae import _thermae
from thermae.arguments import checked_collection
from thermae.codecs import Codecs
from thermae.errors import InvalidOptionError, WrongTypeError
from thermae.flight import get_or_set
from thermae.options import AnyCodec

P = ParamSpec("P")
R = TypeVar("R")


@functools.cache
def _encoder() -> Callable[[Any], bytes]:
    # Imported when a function is memoized: msgspec takes as long to import as all the rest of the package.
    import msgspec

    return msgspec.msgpack.Encoder(order="deterministic").encode


def _encode(value: Any) -> bytes:
    return _encoder()(value)


# MessagePack has a form of its own for each of them.
_TOLD_APART = frozenset((bool, int, float, str, bytes, type(None)))


class CallKeys:
    """The keys of one function's calls."""

    __slots__ = ("_ignored", "_signature", "prefix")

    def __init__(self, function: Callable[..., Any], name: str | None, ignore: Collection[str]) -> None:
        if isinstance(function, (staticmethod, classmethod)) or not callable(function):
            raise WrongTypeError(
                f"memoize takes a function, not {type(function).__name__}: write @store.memoize(...) "
                "with its parentheses, and under @staticmethod or @classmethod"
            )
        called = name or _own_name(function)
        try:
            self._signature = inspect.signature(function)
        except ValueError as error:
            raise WrongTypeError(
                f"{called} does not tell its parameters: wrap it in a function that names them"
            ) from error
        ignored = frozenset(checked_collection("ignore", ignore))
        unknown = ignored - set(self._signature.parameters)
        if unknown:
            raise InvalidOptionError(
                f"ignore names {sorted(unknown)}, which {called} does not take: "
                f"its parameters are {list(self._signature.parameters)}"
            )
        self._ignored = ignored
        self.prefix = f"memoize:{called}:"

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The key of one call.

        Raises:
            WrongTypeError: An argument has no bytes by which to tell it from others.
        """
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        try:
            material = _encode(
                [
                    (parameter, _distinct(value))
                    for parameter, value in bound.arguments.items()
                    if parameter not in self._ignored
                ]
            )
        except (TypeError, OverflowError, ValueError, RecursionError) as error:
            raise WrongTypeError(
                f"a call to be memoized has an argument that makes no key ({error}): leave it out with "
                'ignore=["name"], or pass what tells it apart'
            ) from error
        return self.prefix + hashlib.blake2b(material, digest_size=16).hexdigest()


def _distinct(value: Any) -> Any:
    """A value as what MessagePack tells from every other: its class, and its members in the same form."""
    kind = type(value)
    if kind in _TOLD_APART:
        return value
    named = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(value, (list, tuple)):
        return [named, [_distinct(member) for member in value]]
    if isinstance(value, dict):
        return [named, sorted(_encode((_distinct(key), _distinct(member))) for key, member in value.items())]
    if isinstance(value, (set, frozenset)):
        return [named, sorted(_encode(_distinct(member)) for member in value)]
    fields = _field_names(kind)
    if fields is not None:
        # MessagePack leaves out what is not set, and so does this.
        from msgspec import UNSET

        there = [(field, getattr(value, field)) for field in fields if hasattr(value, field)]
        return [named, [(field, _distinct(member)) for field, member in there if member is not UNSET]]
    return [named, value]


def _field_names(kind: type) -> list[str] | None:
    """The names of the fields of a dataclass, a `msgspec.Struct` or an attrs class; None for all others."""
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    fields = getattr(kind, "__struct_fields__", None) or getattr(kind, "__attrs_attrs__", None)
    if isinstance(fields, tuple):
        return [field if isinstance(field, str) else field.name for field in fields]
    return None


def result_type(function: Callable[..., Any]) -> Any:
    """What the function is annotated to return, or None where a stored result is to be taken as it is.

    Example:
        >>> def pair() -> tuple[int, str]: ...
        >>> result_type(pair)
        tuple[int, str]
    """
    try:
        annotated = typing.get_type_hints(function).get("return")
    except (NameError, TypeError):
        return None
    if annotated is None or annotated is Any or isinstance(annotated, TypeVar):
        return None
    try:
        import msgspec

        msgspec.msgpack.Decoder(annotated)
    except TypeError:
        return None
    return annotated


class _MemoizedFunction(Generic[P]):
    """What a memoized function has, whether it is called or awaited: its name, and the keys of its calls."""

    def __init__(self, function: Callable[P, object], name: str | None, ignore: Collection[str]) -> None:
        keys = CallKeys(function, name, ignore)
        # First of all: it brings along what is noted on the function, which may be memoized itself.
        memoized: Any = self
        functools.update_wrapper(memoized, function)
        self._keys = keys
        self._type = result_type(function)

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key under which this call's result is stored."""
        return self._keys.key(args, kwargs)


class Memoized(_MemoizedFunction[P], Generic[P, R]):
    """A memoized function: call it as before.

    Example:
        >>> import thermae
        >>> store = thermae.open("shm://thermae-doc-memoize", hot="16MiB")
        >>> @store.memoize(ttl=300)
        ... def square(number: int) -> int:
        ...     print("computing")
        ...     return number * number
        >>> square(3), square(number=3)
        computing
        (9, 9)
        >>> square.forget(3)
        True
        >>> store.close()
        >>> thermae.destroy("shm://thermae-doc-memoize")
    """

    def __init__(
        self,
        store: _thermae.Store,
        codecs: Codecs,
        function: Callable[P, R],
        ttl: float | None,
        *,
        name: str | None,
        ignore: Collection[str],
        codec: AnyCodec | None,
    ) -> None:
        super().__init__(function, name, ignore)
        if _is_asynchronous(function):
            raise WrongTypeError(
                f"{_name_of(function)} is asynchronous: memoize it with thermae.aio.Store.memoize"
            )
        self.__wrapped__ = function
        self._store = store
        self._codecs = codecs
        self._ttl = ttl
        self._codec = codec

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The stored result of this call, or the function's, which is then stored."""
        value: R = get_or_set(
            self._store,
            self._codecs,
            self._keys.key(args, kwargs),
            functools.partial(self.__wrapped__, *args, **kwargs),
            self._ttl,
            timeout=None,
            codec=self._codec,
            as_type=self._type,
        )
        return value

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Callable[..., R]: ...
    def __get__(self, instance: object, owner: type | None = None) -> Callable[..., R]:
        """As a method, binds its instance like any function; leave `self` out of the key with `ignore`."""
        return self if instance is None else MethodType(self, instance)

    def forget(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Deletes this call's result; whether there was one."""
        return self._store.delete(self._keys.key(args, kwargs))

    def forget_all(self) -> int:
        """Deletes the results of all calls; how many there were."""
        return self._store.delete_many(list(self._store._scan(self._keys.prefix, False)))


class AsyncMemoized(_MemoizedFunction[P], Generic[P, R]):
    """A memoized asynchronous function, made by `thermae.aio.Store.memoize`: await it as before.

    Example:
        >>> import asyncio, thermae, thermae.aio
        >>> async def main() -> None:
        ...     async with await thermae.aio.open("shm://thermae-doc-memoize-aio", hot="16MiB") as store:
        ...         @store.memoize(ttl=300)
        ...         async def square(number: int) -> int:
        ...             print("computing")
        ...             return number * number
        ...         print(await square(3), await square(number=3), await square.forget_all())
        >>> asyncio.run(main())
        computing
        9 9 1
        >>> thermae.destroy("shm://thermae-doc-memoize-aio")
    """

    def __init__(
        self,
        function: Callable[P, Awaitable[R]],
        find: Callable[[str, Callable[[], Awaitable[R]], Any], Awaitable[R]],
        forget: Callable[[str], Awaitable[bool]],
        forget_all: Callable[[str], Awaitable[int]],
        *,
        name: str | None,
        ignore: Collection[str],
    ) -> None:
        super().__init__(function, name, ignore)
        if not _is_asynchronous(function):
            raise WrongTypeError(
                f"{_name_of(function)} is not asynchronous: memoize it with thermae.Store.memoize, "
                "or make it an async def"
            )
        self.__wrapped__ = function
        self._find = find
        self._forget = forget
        self._forget_all = forget_all

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The stored result of this call, or the function's, which is then stored."""
        return await self._find(
            self._keys.key(args, kwargs), lambda: self.__wrapped__(*args, **kwargs), self._type
        )

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Callable[..., Awaitable[R]]: ...
    def __get__(self, instance: object, owner: type | None = None) -> Callable[..., Awaitable[R]]:
        """As a method, binds its instance like any function; leave `self` out of the key with `ignore`."""
        return self if instance is None else MethodType(self, instance)

    async def forget(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Deletes this call's result; whether there was one."""
        return await self._forget(self._keys.key(args, kwargs))

    async def forget_all(self) -> int:
        """Deletes the results of all calls; how many there were."""
        return await self._forget_all(self._keys.prefix)


def _is_asynchronous(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004 - what a call of it is, not whether it has one
    )


def _own_name(function: Callable[..., Any]) -> str:
    """What a function's results are stored under where no name is given: a name that no other function has.

    Raises:
        InvalidOptionError: Others have it too, or it has none.
    """
    owner = getattr(function, "__self__", None)
    name = getattr(function, "__qualname__", None)
    if isinstance(function, functools.partial) or not isinstance(name, str):
        unnamed = f"a {type(function).__name__} has no name of its own"
    elif "<lambda>" in name:
        unnamed = f"{_name_of(function)} has the name of every other lambda there"
    elif not (owner is None or isinstance(owner, (type, ModuleType))):
        unnamed = f"{_name_of(function)} of one instance has the name of every other one's"
    else:
        return f"{_name_of(owner)}.{function.__name__}" if isinstance(owner, type) else _name_of(function)
    raise InvalidOptionError(
        f'{unnamed}, and would share their results: give it one, such as memoize(name="report")'
    )


def _name_of(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", type(function).__name__)
    return f"{getattr(function, '__module__', '?')}.{name}"
