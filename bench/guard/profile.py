"""What callgrind wrote: a profile's self costs by function.

The format is described in valgrind's manual ("Callgrind Format Specification"). Only self costs are added up: they are
exact, and their sum over all functions is the whole cost of what was counted.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bench.errors import BenchError
from bench.guard.names import readable

# Answered without the kernel, but by a system call under valgrind, which hides the vDSO.
_NO_CALLS = frozenset({"clock_gettime", "gettimeofday", "time", "getcpu"})
_NAME = re.compile(r"\((\d+)\)(?: (.*))?")


@dataclass(frozen=True)
class Cost:
    """What some code did itself, without what it called."""

    instructions: int = 0
    system_calls: int = 0


@dataclass
class Profile:
    """One part of a profile: `trigger` says what ended it, `functions` has the self costs by (object, function)."""

    trigger: str = ""
    total: int = 0
    functions: dict[tuple[str, str], Cost] = field(default_factory=dict)


@dataclass(frozen=True)
class Count:
    """What one request cost, on average over `requests`. System calls that the vDSO answers are none."""

    requests: int
    instructions: float
    system_calls: float
    functions: Mapping[str, float]  # instructions by readable name, the costliest first


def parse(lines: Iterable[str]) -> Profile:
    """A profile from callgrind's text. Raises BenchError when it is none, or does not add up to its own total."""
    profile = Profile()
    events: list[str] = []
    names: dict[str, dict[str, str]] = {"ob": {}, "fn": {}}
    here = {"ob": "", "fn": ""}
    found: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    skip = False
    for line in map(str.rstrip, lines):
        if not line:
            continue
        if line[0].isdigit() or line[0] in "+-*":
            if skip:  # the inclusive cost of a call
                skip = False
                continue
            values = dict(zip(events, map(int, line.split()[1:]), strict=False))  # trailing zeros are left out
            cost = found[here["ob"], here["fn"]]
            cost[0] += values.get("Ir", 0)
            cost[1] += values.get("sysCount", 0)
        elif line.startswith("calls="):
            skip = True
        elif line.startswith(("ob=", "fn=")):
            here[line[:2]] = _name(names[line[:2]], line[3:])
        elif line.startswith(("cob=", "cfn=")):
            _name(names[line[1:3]], line[4:])  # a name may be given here first
        elif line.startswith("events: "):
            events = line.split()[1:]
        elif line.startswith("desc: Trigger: "):
            profile.trigger = line.removeprefix("desc: Trigger: ")
        elif line.startswith(("summary: ", "totals: ")):
            profile.total = int(line.split()[1])
    if "Ir" not in events:
        raise BenchError("callgrind wrote no profile that counts instructions")
    profile.functions = {key: Cost(*cost) for key, cost in found.items()}
    added = sum(cost.instructions for cost in profile.functions.values())
    if added != profile.total:
        raise BenchError(
            f"callgrind's profile adds up to {added} instructions and says {profile.total}: not understood"
        )
    return profile


def per_request(profile: Profile, requests: int) -> Count:
    """The averages of a profile over `requests`."""
    functions: dict[str, int] = defaultdict(int)
    calls = 0
    for (obj, function), cost in profile.functions.items():
        functions[readable(obj, function)] += cost.instructions
        if function.partition("@")[0] not in _NO_CALLS:
            calls += cost.system_calls
    costliest = sorted(functions.items(), key=lambda item: (-item[1], item[0]))
    return Count(
        requests, profile.total / requests, calls / requests, {name: n / requests for name, n in costliest if n}
    )


def _name(known: dict[str, str], text: str) -> str:
    """The name behind a compressed one: `(7) name` the first time, `(7)` from then on."""
    match = _NAME.fullmatch(text)
    if match is None:
        return text
    if match[2] is not None:
        known[match[1]] = match[2]
    if match[1] not in known:
        raise BenchError(f"callgrind's profile uses the name {text} before it says what it is: not understood")
    return known[match[1]]
