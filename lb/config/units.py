"""Durations and sizes as the configuration file spells them: `250ms`, `2s`, `5m`; `64KiB`, `1MiB`."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, get_args

from msgspec import Struct
from pydantic import BeforeValidator, PlainSerializer, ValidationInfo, WithJsonSchema
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from lb.config.memory import FileMemory

MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_DURATIONS = {"us": MICROSECOND, "ms": MILLISECOND, "s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY}
_SIZES = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}
# Far below 2**63, so that `now + duration` and sums of sizes cannot overflow in compiled code.
MAX_DURATION = 365 * DAY
MAX_SIZE = 1024 * TIB

DURATION_PATTERN = r"^[0-9]+(\.[0-9]+)?(us|ms|s|m|h|d)$"
SIZE_PATTERN = r"^[0-9]+(\.[0-9]+)?(B|KiB|MiB|GiB|TiB)$"
_NUMBER = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)([A-Za-z]+)", re.ASCII)


class FileContext(Struct, frozen=True):
    """Validation context of values that come from a file: `base` is the folder that relative paths start from,
    `memory` what is known of the file's parts from the load before."""

    base: Path
    memory: FileMemory | None = None


def _parse(text: str, units: dict[str, int]) -> int | None:
    """`text` in base units, or None when it is not a number with one of the units or not a whole number of base
    units."""
    match = _NUMBER.fullmatch(text)
    if match is None or match[2] not in units:
        return None
    value = Decimal(match[1]) * units[match[2]]
    return int(value) if value == value.to_integral_value() else None


def parse_duration(text: str) -> int:
    """Nanoseconds of a duration such as `250ms`, `1.5s`, `5m`, `1h`; ValueError when it is not one."""
    value = _parse(text, _DURATIONS)
    if value is None:
        raise ValueError(f"{text!r} is not a duration; write a number with us, ms, s, m, h or d, such as 250ms or 2s")
    if value > MAX_DURATION:
        raise ValueError(f"{text!r} is longer than 365d")
    return value


def parse_size(text: str) -> int:
    """Bytes of a size such as `512B`, `64KiB`, `1.5MiB`; ValueError when it is not one."""
    value = _parse(text, _SIZES)
    if value is None:
        raise ValueError(f"{text!r} is not a size; write a number with B, KiB, MiB, GiB or TiB, such as 64KiB")
    if value > MAX_SIZE:
        raise ValueError(f"{text!r} is larger than 1024TiB")
    return value


def format_duration(ns: int) -> str:
    """The shortest exact spelling that `parse_duration` reads back; `0s` for 0."""
    if ns == 0:
        return "0s"
    if ns % MICROSECOND:
        return f"{Decimal(ns) / MICROSECOND:f}us"
    unit = next(u for u in reversed(_DURATIONS) if ns % _DURATIONS[u] == 0)
    return f"{ns // _DURATIONS[unit]}{unit}"


def format_size(size: int) -> str:
    """The shortest exact spelling that `parse_size` reads back; `0B` for 0."""
    if size == 0:
        return "0B"
    unit = next(u for u in reversed(_SIZES) if size % _SIZES[u] == 0)
    return f"{size // _SIZES[unit]}{unit}"


def _from_file(info: ValidationInfo) -> bool:
    # Python callers (tests, other parts) give base units; in a file a bare number is a mistake that would go unseen.
    return isinstance(info.context, FileContext)


def _duration(value: Any, info: ValidationInfo) -> int:
    if type(value) is int and 0 <= value <= MAX_DURATION and (value == 0 or not _from_file(info)):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("duration", "must be a duration with its unit, such as 250ms, 2s or 5m")
    try:
        return parse_duration(value)
    except ValueError as error:
        raise PydanticCustomError("duration", "{reason}", {"reason": str(error)}) from None


def _size(value: Any, info: ValidationInfo) -> int:
    if type(value) is int and 0 <= value <= MAX_SIZE and (value == 0 or not _from_file(info)):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("size", "must be a size with its unit, such as 64KiB or 1MiB")
    try:
        return parse_size(value)
    except ValueError as error:
        raise PydanticCustomError("size", "{reason}", {"reason": str(error)}) from None


def _schema(pattern: str, examples: list[str]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": "string", "pattern": pattern, "examples": examples}, {"const": 0}]})


Duration = Annotated[
    int,
    BeforeValidator(_duration),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    _schema(DURATION_PATTERN, ["250ms", "2s", "5m"]),
]
"""A duration: nanoseconds in Python, text with a unit in files."""

Size = Annotated[
    int,
    BeforeValidator(_size),
    PlainSerializer(format_size, return_type=str, when_used="json"),
    _schema(SIZE_PATTERN, ["64KiB", "1MiB"]),
]
"""A size: bytes in Python, text with a unit in files."""


def is_kind(info: FieldInfo) -> str:
    """`Duration` or `Size`; "" for a field of neither."""
    found = [*info.metadata, *_parts(info.annotation)]
    return next((name for name, kind in (("Duration", _duration), ("Size", _size)) if _by(found, kind)), "")


def _by(parts: list[Any], function: Any) -> bool:
    return any(isinstance(part, BeforeValidator) and part.func is function for part in parts)


def _parts(annotation: Any) -> list[Any]:
    """What stands in `X | None` and `Annotated[X, …]`, at any depth."""
    return [part for arg in get_args(annotation) for part in (arg, *_parts(arg))]
