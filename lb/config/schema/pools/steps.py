"""Steps of a check that speaks a protocol of lines or bytes."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, model_validator

from lb.config.schema.base import Model, OctetsRegex, only_one, text
from lb.config.values import CLOSE, ELSE, OPEN

CAPTURED = re.compile(r"\(\?P<([A-Za-z_][A-Za-z0-9_]*)>")
"""A group in `expect` whose text later steps may send."""

MOST_STEPS = 32

Sent = Annotated[
    str,
    *text(rf"[\x00-\xff{OPEN}{ELSE}{CLOSE}]{{0,1200}}", "is not made of bytes: characters up to \\xff, at most 1200"),
]
"""Bytes, each spelled as the character of its number, and captures (lb.config.values)."""


class CheckStepConfig(Model):
    """One step of a conversation with an endpoint. Exactly one of `send` and `expect`."""

    send: Sent | None = Field(default=None, min_length=1)
    """Bytes that are sent. Each character is one byte; what is no letter is written as `"\\r\\n"` or `"\\x00"` in
    double quotes. `${capture.name}` is what an earlier `expect` has captured as `(?P<name>...)`,
    and `${capture.name:-text}` has a text for a capture that is empty."""
    expect: OctetsRegex | None = Field(default=None, min_length=1)
    """A regular expression (RE2's syntax, over bytes; `.` is any byte) that has to be found in what the endpoint sends
    next, within 64 KiB. What stands before and in the match is taken; the next `expect` begins behind it."""

    @model_validator(mode="after")
    def _one(self) -> CheckStepConfig:
        only_one(self, ("send", "expect"))
        return self
