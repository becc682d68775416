"""What the head of a request says about its job: Prefer (RFC 7240), Priority (RFC 9218), and fields of our own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct

from lb.config.units import SECOND, parse_duration
from lb.jobs.job import Fields
from lb.jobs.settings import ROUTE_FIELD

DEADLINE_FIELD = "X-Tidegate-Deadline"
WEBHOOK_FIELD = "X-Tidegate-Webhook"
MAX_WAIT = 60.0  # seconds
MAX_KEY = 255  # characters of an idempotency key

# Fields of one connection (RFC 9110 section 7.6.1), and those that were for us.
_OWN = frozenset(
    name.lower()
    for name in (
        "Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Expect",
        "Content-Length", "Prefer", ROUTE_FIELD, DEADLINE_FIELD, WEBHOOK_FIELD,
    )
)  # fmt: skip
_URGENCY = re.compile(r"(?:^|,)\s*u\s*=\s*([0-7])\s*(?=[,;]|$)")
_PREFERENCE = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*("[^"]*"|[^\s,;]*))?')


class OptionError(ValueError):
    """The client's request for a job cannot be understood; the message is for the client."""


class Options(Struct, frozen=True):
    """`wait` and `deadline` are seconds from now on; `deadline` is None where the client has none of its own."""

    wait: float = 0.0
    priority: int = 3
    deadline: float | None = None
    key: str | None = None
    webhook: str = ""


def read_options(fields: Fields) -> Options:
    """Raises OptionError."""
    key = first(fields, "idempotency-key")
    if key is not None:
        key = key.strip()
        if not 0 < len(key) <= MAX_KEY:
            raise OptionError(f"Idempotency-Key: 1 to {MAX_KEY} characters are a key")
    return Options(
        wait=preferred_wait(values(fields, "prefer")),
        priority=_priority(values(fields, "priority")),
        deadline=_deadline(first(fields, DEADLINE_FIELD.lower())),
        key=key,
        webhook=(first(fields, WEBHOOK_FIELD.lower()) or "").strip(),
    )


def preferred_wait(lines: Iterable[str]) -> float:
    """Seconds that `Prefer: wait=N` asks for, 60 at most; 0.0 where none does (RFC 7240 section 4.3)."""
    for name, value in preferences(lines):
        if name == "wait" and value.isascii() and value.isdigit():
            return min(float(value[:9]), MAX_WAIT)
    return 0.0


def preferences(lines: Iterable[str]) -> list[tuple[str, str]]:
    """The preferences of `Prefer`, names in small letters, without their parameters. A preference that is no token is
    passed over, as one that is not known."""
    found = []
    for line in lines:
        for part in line.split(","):
            match = _PREFERENCE.match(part)
            if match is not None:
                found.append((match[1].lower(), (match[2] or "").strip('"')))
    return found


def tenant_of(kind: str, name: str, fields: Fields, target: str) -> str | None:
    """The tenant that a request names; None for none, or for more than one."""
    if kind == "header":
        found = [value.strip() for value in values(fields, name.lower())]
    elif kind == "cookie":
        pairs = (pair.strip().partition("=") for line in values(fields, "cookie") for pair in line.split(";"))
        found = [value for key, _, value in pairs if key == name]
    else:
        found = [value for key, value in parse_qsl(urlsplit(target).query, keep_blank_values=True) if key == name]
    return found[0] if len(found) == 1 and found[0] else None


def passed_on(fields: Fields) -> Fields:
    """Of a request's head what goes to the pool, or of an answer's what goes to the client."""
    named = {name.strip().lower() for line in values(fields, "connection") for name in line.split(",")}
    return [(name, value) for name, value in fields if (low := name.lower()) not in _OWN and low not in named]


def values(fields: Fields, name: str) -> Sequence[str]:
    """Of all lines of a field; `name` in small letters."""
    return [value for known, value in fields if known.lower() == name]


def first(fields: Fields, name: str) -> str | None:
    return next(iter(values(fields, name)), None)


def _priority(lines: Sequence[str]) -> int:
    match = _URGENCY.search(",".join(lines))
    return int(match[1]) if match is not None else 3


def _deadline(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = parse_duration(value.strip()) / SECOND
    except ValueError as error:
        raise OptionError(f"{DEADLINE_FIELD}: {error}") from None
    if seconds <= 0:
        raise OptionError(f"{DEADLINE_FIELD}: is a time from now on, such as 10m")
    return seconds
