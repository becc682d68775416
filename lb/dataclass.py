"""`dataclass` of the standard library for a start that is short.

The standard decorator has the interpreter compile six functions for a frozen class, one by one. For the 170 classes of
the master that was a quarter of the time in which it loads (Python 3.11). Here a class gets one function of its own,
`__init__`. Comparison, hash and text are functions that all classes share.

`fields`, `replace`, `asdict` and `field` are the standard library's. What no class here uses is left out: order,
`__post_init__`, `InitVar`, fields without a place in `__init__`, and base classes with fields of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, field, fields
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform, overload

T = TypeVar("T")


@overload
def dataclass(kind: type[T], /) -> type[T]: ...
@overload
def dataclass(*, frozen: bool = ..., slots: bool = ..., eq: bool = ...) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(field_specifiers=(field,))
def dataclass(kind: Any = None, /, *, frozen: bool = False, slots: bool = False, eq: bool = True) -> Any:
    """As `dataclasses.dataclass` with these arguments."""

    def made(kind: type[T]) -> type[T]:
        if kind.__doc__ is None:
            kind.__doc__ = kind.__name__  # else the standard decorator takes the signature apart for it
        given: dict[str, Any] = {"__repr__": _repr}
        if eq:
            given |= {"__eq__": _eq, "__hash__": _hash if frozen else None}
        if frozen:
            given |= {"__setattr__": _refuse, "__delattr__": _refuse, "__reduce__": _reduce}
        for name, function in given.items():
            if name not in kind.__dict__ or kind.__dict__[name] is None:
                setattr(kind, name, function)
        with_fields: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(kind)
        with_fields.__init__ = _init(with_fields, frozen)
        finished: type[T] = with_fields
        return finished

    return made if kind is None else made(kind)


def _init(kind: Any, frozen: bool) -> Callable[..., None]:
    known: dict[str, Any] = {"_set": object.__setattr__, "_missing": MISSING}
    arguments, lines = [], []
    for each in fields(kind):
        name = value = each.name
        argument = name
        if each.default_factory is not MISSING:
            known[f"_new_{name}"] = each.default_factory
            argument = f"{name}=_missing"
            value = f"_new_{name}() if {name} is _missing else {name}"
        elif each.default is not MISSING:
            known[f"_default_{name}"] = each.default
            argument = f"{name}=_default_{name}"
        arguments.append(argument)
        lines.append(f" _set(self, {name!r}, {value})" if frozen else f" self.{name} = {value}")
    text = f"def __init__({', '.join(['self', *arguments])}):\n" + ("\n".join(lines) or " pass")
    exec(text, known)  # noqa: S102 - the names are identifiers of the class's body
    made: Callable[..., None] = known["__init__"]
    made.__qualname__ = f"{kind.__qualname__}.__init__"
    made.__module__ = kind.__module__
    return made


@cache
def _compared(kind: Any) -> Callable[[Any], Any]:
    return _values([each.name for each in fields(kind) if each.compare])


def _values(names: list[str]) -> Callable[[Any], Any]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda value: tuple(getattr(value, name) for name in names)


@cache
def _shown(kind: Any) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind) if each.repr)


def _eq(self: Any, other: Any) -> bool:
    kind = self.__class__
    if other.__class__ is not kind:
        return NotImplemented  # type: ignore[no-any-return]
    equal: bool = _compared(kind)(self) == _compared(kind)(other)
    return equal


def _hash(self: Any) -> int:
    return hash(_compared(self.__class__)(self))


def _repr(self: Any) -> str:
    shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in _shown(self.__class__))
    return f"{self.__class__.__qualname__}({shown})"


def _reduce(self: Any) -> tuple[Any, ...]:
    """For copies: a state could not be set."""
    return self.__class__, tuple(getattr(self, each.name) for each in fields(self))


def _refuse(self: Any, name: str, *value: Any) -> None:
    raise FrozenInstanceError(f"cannot {'assign to' if value else 'delete'} field {name!r}")
