"""Plans as plain types, for msgpack, and back.

What there may be thousands of (a field that is a Sequence) goes over the wire packed one by one. The receiver can then
tell what it has already by comparing bytes, and read the rest bit by bit. One of them is a list: the values of the
fields that it has to itself (`OWN` of its class: the first ones, which have no defaults), and its form, which is all
the rest, packed by itself and the same for very many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from operator import attrgetter
from typing import Any, Generic, TypeVar, get_args, get_origin, get_type_hints, overload

import msgpack
from msgspec import Struct
from msgspec.structs import fields

T = TypeVar("T")

unpacked: Callable[[bytes], list[Any]] = msgpack.unpackb
"""Of one of many what it has to itself, and then its form, as `joined` packed them."""
_pack: Callable[[Any], bytes] = msgpack.Packer().pack

FORMS = 4096  # that a reader keeps


def pack(value: Any) -> bytes:
    """One of many, a Struct."""
    return joined([getattr(value, name) for name in type(value).OWN], form(value))


def form(value: Any) -> bytes:
    """What one of many has in common with others."""
    rest = plain(value)
    for name in type(value).OWN:
        del rest[name]
    packed: bytes = msgpack.packb(rest)
    return packed


def joined(own: Sequence[Any], form: bytes) -> bytes:
    """One of many, packed, by its own values and its form."""
    return _pack((*own, form))


def plain(value: Any) -> Any:
    """`value`, a Struct or a tuple, as plain types. Fields that have their default are left out: of ten thousand
    plain routes that is most of the frame."""
    if isinstance(value, tuple):
        return [plain(v) for v in value] if value and not isinstance(value[0], str | int) else list(value)
    if not isinstance(value, Struct):
        return value
    result = {}
    kind: Any = type(value)
    layout, every = _layout(kind)
    for got, (name, default, flat, many) in zip(every(value), layout, strict=True):
        if got is default:
            continue
        if many:
            result[name] = got.items if isinstance(got, Packed) else [pack(v) for v in got]
        elif got != default:
            result[name] = got if flat else plain(got)
    return result


def learn(kind: type) -> None:
    """Has `typed` know the fields of `kind` and of all Structs in it, which is a hundred times the work of reading
    one. The fork server does it for the workers."""
    _readers(kind)
    for hint in get_type_hints(kind).values():
        for part in (hint, *get_args(hint)):
            if isinstance(part, type) and issubclass(part, Struct):
                learn(part)


def typed(kind: type, value: dict[str, Any]) -> Any:
    """What `plain` gave as a Struct again, after msgpack (tuples may have become lists)."""
    return kind(**_fields(kind, value))


class Packed(Sequence[T], Generic[T]):
    """Structs of one kind that stay packed, and are read anew each time they are asked for."""

    __slots__ = ("_kind", "items")

    def __init__(self, kind: type[T], items: list[bytes]) -> None:
        self._kind = kind
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return Packed(self._kind, self.items[index])
        return self.read(self.items[index])

    def __iter__(self) -> Iterator[T]:
        return map(self.read, self.items)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Packed):
            return self.items == other.items
        return tuple(self) == other

    __hash__ = None  # type: ignore[assignment]

    def own(self) -> Iterator[list[Any]]:
        """Of each what it has to itself, and then its form."""
        return map(unpacked, self.items)

    def read(self, item: bytes) -> T:
        """One of `items`."""
        *own, form = unpacked(item)
        kind: Any = self._kind
        made: T = kind(*own, **_form(kind, form))
        return made


def _fields(kind: type, value: dict[str, Any]) -> dict[str, Any]:
    readers = _readers(kind)
    return {name: reader(v) if (reader := readers[name]) else v for name, v in value.items()}


@lru_cache(FORMS)
def _form(kind: type, form: bytes) -> dict[str, Any]:
    """The fields in a form; their values are immutable, as all of a plan is."""
    return _fields(kind, msgpack.unpackb(form))


@cache
def _layout(kind: type) -> tuple[tuple[tuple[str, Any, bool, bool], ...], Callable[[Any], tuple[Any, ...]]]:
    """For each field of the Struct `kind`: its name, its default, whether the value is plain as it is, and whether
    it is packed one by one. And what gives the values of all."""
    readers, hints = _readers(kind), get_type_hints(kind)
    layout = tuple(
        (f.name, f.default, readers[f.name] is None, get_origin(hints[f.name]) is Sequence) for f in fields(kind)
    )
    names = [name for name, *_ in layout]
    return layout, attrgetter(*names) if len(names) > 1 else lambda value: (getattr(value, names[0]),)


@cache
def _readers(kind: type) -> dict[str, Callable[[Any], Any] | None]:
    """For each field of the Struct `kind`, what makes its value from plain types; None where nothing is to be made.

    Looked up once: resolving the annotations costs far more than reading a route.
    """
    return {name: _reader(hint) for name, hint in get_type_hints(kind).items()}


def _reader(hint: Any) -> Callable[[Any], Any] | None:
    if isinstance(hint, type) and issubclass(hint, Struct):
        return lambda value: typed(hint, value)
    if get_origin(hint) is Sequence:
        kind = get_args(hint)[0]
        return lambda value: Packed(kind, value)
    if get_origin(hint) is tuple:
        item = _reader(get_args(hint)[0])
        return (lambda value: tuple(map(item, value))) if item else tuple
    for part in get_args(hint):
        if isinstance(part, type) and issubclass(part, Struct):  # X | None
            return lambda value: None if value is None else typed(part, value)
    return None
