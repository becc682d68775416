"""One line of `tidegate doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found in an `area`, such as `memory`, and what to do about it; "" where all is well."""

    area: str
    state: State
    text: str
    advice: str = ""


def ok(area: str, text: str) -> Finding:
    return Finding(area, "ok", text)


def warn(area: str, text: str, advice: str) -> Finding:
    return Finding(area, "warn", text, advice)


def fail(area: str, text: str, advice: str) -> Finding:
    return Finding(area, "fail", text, advice)
