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
# Who calls these from elsewhere than the interpreter is the data path: the driver is Python.
_LIBC = re.compile(r"(?:.*/)?libc[.-]")
_INTERPRETER = re.compile(r"(?:.*/)?(?:libpython|python|libc[.-]|ld-|ld\.so)")
_NAME = re.compile(r"\((\d+)\)(?: (.*))?")


@dataclass
class Profile:
    """One part of a profile: `trigger` says what ended it, `functions` has the instructions by (object, function),
    without what they called. `system_calls` are those that compiled code made through the C library; callgrind counts
    the driver's too, however its counting is switched, and attributes all to one function of the C library.
    """

    trigger: str = ""
    total: int = 0
    functions: dict[tuple[str, str], int] = field(default_factory=dict)
    system_calls: int = 0


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
    callee = {"ob": "", "fn": ""}
    found: dict[tuple[str, str], int] = defaultdict(int)
    call = False
    for line in map(str.rstrip, lines):
        if not line:
            continue
        if line[0].isdigit() or line[0] in "+-*":
            values = dict(zip(events, map(int, line.split()[1:]), strict=False))  # trailing zeros are left out
            if call:  # the inclusive cost of a call
                call = False
                if _enters_kernel(here["ob"], **callee):
                    profile.system_calls += values.get("sysCount", 0)
                callee["ob"] = here["ob"]
                continue
            found[here["ob"], here["fn"]] += values.get("Ir", 0)
        elif line.startswith("calls="):
            call = True
        elif line.startswith(("ob=", "fn=")):
            here[line[:2]] = _name(names[line[:2]], line[3:])
            callee["ob"] = here["ob"]
        elif line.startswith(("cob=", "cfn=")):  # without an object it is the caller's
            callee[line[1:3]] = _name(names[line[1:3]], line[4:])
        elif line.startswith("events: "):
            events = line.split()[1:]
        elif line.startswith("desc: Trigger: "):
            profile.trigger = line.removeprefix("desc: Trigger: ")
        elif line.startswith(("summary: ", "totals: ")):
            profile.total = int(line.split()[1])
    if "Ir" not in events:
        raise BenchError("callgrind wrote no profile that counts instructions")
    profile.functions = dict(found)
    added = sum(found.values())
    if added != profile.total:
        raise BenchError(
            f"callgrind's profile adds up to {added} instructions and says {profile.total}: not understood"
        )
    return profile


def per_request(profile: Profile, requests: int) -> Count:
    """The averages of a profile over `requests`."""
    functions: dict[str, int] = defaultdict(int)
    for (obj, function), instructions in profile.functions.items():
        functions[readable(obj, function)] += instructions
    costliest = sorted(functions.items(), key=lambda item: (-item[1], item[0]))
    return Count(
        requests,
        profile.total / requests,
        profile.system_calls / requests,
        {name: n / requests for name, n in costliest if n},
    )


def _enters_kernel(caller: str, ob: str, fn: str) -> bool:
    """Whether a call from `caller` to a function of the C library is one of compiled code for the kernel."""
    known = fn.partition("@")[0]
    return bool(_LIBC.match(ob)) and not _INTERPRETER.match(caller) and known not in _NO_CALLS


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
