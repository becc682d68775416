"""Numbers, durations, sizes and rates as people write them elsewhere, and how they are written here. Each function
gives what to write in place of a value, or "" where that is not clear."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from lb.config.units import (
    DAY,
    GIB,
    HOUR,
    KIB,
    MAX_DURATION,
    MAX_SIZE,
    MIB,
    MICROSECOND,
    MILLISECOND,
    MINUTE,
    SECOND,
    TIB,
    format_duration,
    format_size,
)

_TRUE = frozenset(("true", "yes", "on", "y", "1", "enabled", "enable"))
_FALSE = frozenset(("false", "no", "off", "n", "0", "disabled", "disable"))

_TIMES = {
    MICROSECOND: "us µs usec usecs microsecond microseconds",
    MILLISECOND: "ms msec msecs millis millisecond milliseconds",
    SECOND: "s sec secs second seconds",
    MINUTE: "m min mins minute minutes",
    HOUR: "h hr hrs hour hours",
    DAY: "d day days",
    7 * DAY: "w week weeks",
}
_TIME = {word: unit for unit, words in _TIMES.items() for word in words.split()}
_BYTES = {
    1: "b byte bytes",
    KIB: "k kb kib ki kilobyte kilobytes",
    MIB: "m mb mib mi megabyte megabytes",
    GIB: "g gb gib gi gigabyte gigabytes",
    TIB: "t tb tib ti",
}
_BYTE = {word: unit for unit, words in _BYTES.items() for word in words.split()}
_RATES = {
    "s": "s sec secs second seconds",
    "m": "m min mins minute minutes",
    "h": "h hr hour hours",
    "d": "d day days",
}
_RATE = {word: unit for unit, words in _RATES.items() for word in words.split()}
_RATE_TEXT = re.compile(
    r"([1-9][0-9]{0,5})\s*(?:r|req|reqs|request|requests|rq)?\s*(?:/|per|p)\s*(?:1\s*)?([a-z]+)",
    re.ASCII | re.IGNORECASE,
)
_PARTS = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([A-Za-zµ]+)")
_WHOLE = re.compile(r"[0-9]{1,3}(?:[,_' ][0-9]{3})+|[0-9]{1,15}", re.ASCII)
_MULTIPLE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*([kKmM])", re.ASCII)
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,4})?)\s*%", re.ASCII)


def truth(value: Any) -> str:
    """`true` or `false`."""
    word = str(value).lower()
    return "true" if word in _TRUE else "false" if word in _FALSE else ""


def number(value: Any, whole: bool, share: bool) -> str:
    """A number. `whole`: it has no fraction. `share`: it is a part of one, so that 90% is 0.9."""
    text = str(value).strip() if isinstance(value, str) else ""
    if (found := _PERCENT.fullmatch(text)) is not None:
        given = Decimal(found[1]) / 100 if share else Decimal(found[1])
    elif (found := _WHOLE.fullmatch(text)) is not None:
        given = Decimal(re.sub(r"[^0-9]", "", text))
    elif (found := _MULTIPLE.fullmatch(text)) is not None:
        given = Decimal(found[1]) * (1000 if found[2] in "kK" else 1_000_000)
    elif not whole and re.fullmatch(r"[0-9]{1,9}\.[0-9]{1,9}", text):
        given = Decimal(text)
    else:
        return ""
    return "" if whole and given != given.to_integral_value() else f"{given.normalize():f}"


def duration(value: Any) -> str:
    """A duration: of a number alone both that may be meant."""
    if type(value) in (int, float) or (isinstance(value, str) and _WHOLE.fullmatch(value.strip())):
        plain = re.sub(r"[^0-9.]", "", f"{value}") if Decimal(str(value).strip().replace("_", "") or 0) > 0 else ""
        return f"{plain}s for seconds, {plain}ms for milliseconds" if plain else ""
    return format_duration(total) if (total := _sum(value, _TIME)) and total <= MAX_DURATION else ""


def size(value: Any) -> str:
    """A size."""
    if type(value) is int or (isinstance(value, str) and _WHOLE.fullmatch(value.strip())):
        given = int(re.sub(r"[^0-9]", "", str(value)) or 0)
        return format_size(given) if 0 < given <= MAX_SIZE else ""
    return format_size(total) if (total := _sum(value, _BYTE)) and total <= MAX_SIZE else ""


def rate(value: Any) -> str:
    """A rate."""
    text = str(value).strip()
    if re.fullmatch(r"[1-9][0-9]{0,5}", text):
        return f"{text}/s for {text} a second, {text}/m for {text} a minute"
    if (part := re.fullmatch(r"([0-9]*\.[0-9]+)\s*(?:r?(/[smhd]))?", text)) is not None:
        return _whole_rate(Decimal(part[1]), part[2] or "/s")
    found = _RATE_TEXT.fullmatch(text)
    unit = _RATE.get(found[2].lower()) if found is not None else None
    return f"{found[1]}/{unit}" if found is not None and unit else ""


def _whole_rate(number: Decimal, unit: str) -> str:
    """The rate of `number` a unit, in the next larger unit in which that is whole."""
    units = "smhd"
    for longer, factor in zip(units[units.index(unit[1]) + 1 :], (60, 60, 24)[units.index(unit[1]) :], strict=True):
        number *= factor
        if number == number.to_integral_value() and 1 <= number <= 999999:
            return f"{int(number)}/{longer}"
    return ""


def _sum(value: Any, units: dict[str, int]) -> int:
    """Of a text such as `1m30s` or `10 MB`: what its parts come to; 0 where it is none, or not whole."""
    if not isinstance(value, str):
        return 0
    total, at, text = Decimal(0), 0, value.strip()
    while at < len(text):
        found = _PARTS.match(text, at)
        unit = units.get(found[2]) or units.get(found[2].lower()) if found is not None else None
        if found is None or unit is None:
            return 0
        total += Decimal(found[1]) * unit
        at = found.end()
    return int(total) if total == total.to_integral_value() else 0
