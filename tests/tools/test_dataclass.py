"""lb.dataclass does what the standard decorator does."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, field, fields
from typing import Any, ClassVar

import pytest

from lb.dataclass import dataclass

DECORATORS = pytest.mark.parametrize("decorator", [dataclass, dataclasses.dataclass], ids=["ours", "standard"])
Made = Callable[..., Any]


def point(decorator: Any, **options: Any) -> Made:
    @decorator(**options)
    class Point:
        """A point."""

        LIMIT: ClassVar[int] = 5

        x: int
        y: int = 0
        names: list[str] = field(default_factory=list)
        secret: str = field(default="s", repr=False)
        note: str = field(default="", compare=False)

    return Point


@dataclass(frozen=True, slots=True)
class Pair:
    left: int
    right: str = "r"


@dataclass(frozen=True, slots=True)
class One:
    """With a text of its own."""

    value: float

    def __repr__(self) -> str:
        return "one"


@DECORATORS
def test_arguments_and_defaults(decorator: Any) -> None:
    kind = point(decorator, frozen=True, slots=True)
    made = kind(1, secret="t")
    assert (made.x, made.y, made.names, made.secret, made.note) == (1, 0, [], "t", "")
    assert kind(1).names is not kind(1).names
    for arguments in ((), (1, 2, [], "", "", 6)):
        with pytest.raises(TypeError, match=r"__init__\(\)"):
            kind(*arguments)
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        kind(1, z=1)


@DECORATORS
def test_text(decorator: Any) -> None:
    made = point(decorator, frozen=True, slots=True)(1, 2)
    assert repr(made).endswith("Point(x=1, y=2, names=[], note='')")


@DECORATORS
def test_comparison(decorator: Any) -> None:
    kind = point(decorator, frozen=True, slots=True)
    assert kind(1, 2) == kind(1, 2, note="other")
    assert kind(1, 2) != kind(1, 2, secret="other")
    assert kind(1, 2) != (1, 2)
    assert kind(1) != point(decorator, frozen=True, slots=True)(1)  # another class


@DECORATORS
def test_hash(decorator: Any) -> None:
    kind = decorator(frozen=True, slots=True)(type("Key", (), {"__annotations__": {"a": int, "b": int}}))
    assert hash(kind(1, 2)) == hash(kind(1, 2))
    assert len({kind(1, 2), kind(1, 2), kind(2, 1)}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(point(decorator, slots=True)(1))


@DECORATORS
def test_a_frozen_one_refuses_changes(decorator: Any) -> None:
    made = point(decorator, frozen=True, slots=True)(1)
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'x'"):
        made.x = 2
    with pytest.raises(FrozenInstanceError, match="cannot delete field 'x'"):
        del made.x
    other = point(decorator, slots=True)(1)
    other.x = 2
    assert other.x == 2


@DECORATORS
def test_slots(decorator: Any) -> None:
    made = point(decorator, slots=True)(1)
    assert not hasattr(made, "__dict__")
    with pytest.raises(AttributeError):
        made.other = 1
    assert point(decorator)(1).__dict__["x"] == 1


@DECORATORS
def test_without_comparison(decorator: Any) -> None:
    kind = point(decorator, frozen=True, slots=True, eq=False)
    made = kind(1)
    assert made != kind(1)
    assert len({made, made}) == 1


def test_functions_of_the_standard_library() -> None:
    made = Pair(1)
    assert [each.name for each in fields(Pair)] == ["left", "right"]
    assert dataclasses.replace(made, right="s") == Pair(1, "s")
    assert dataclasses.asdict(made) == {"left": 1, "right": "r"}
    assert dataclasses.is_dataclass(Pair)
    match made:
        case Pair(left, right):
            assert (left, right) == (1, "r")


def test_copies() -> None:
    assert (
        copy.deepcopy(Pair(1, "x"))
        == copy.copy(Pair(1, "x"))
        == pickle.loads(pickle.dumps(Pair(1, "x")))
        == Pair(1, "x")
    )


def test_what_a_class_has_of_its_own_stays() -> None:
    assert repr(One(1.0)) == "one"
    assert One.__doc__ == "With a text of its own."
    assert One(float("nan")) != One(float("nan"))
