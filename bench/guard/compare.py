"""Stored figures against measured ones: which differences are changes of the code, and where they lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from bench.errors import BenchError
from bench.guard.figures import Figures, Tolerance
from bench.guard.profile import Count

# Of system calls per request: more than the rare one that is not made for a request (a buffer that grows).
_CALLS = 0.05
_TOP = 5


class Verdict(StrEnum):
    SAME = "same"
    WORSE = "worse"
    BETTER = "better"
    NEW = "not stored"


@dataclass(frozen=True)
class Moved:
    """A function whose self cost changed by `instructions` per request; `before` and `after` are 0 where it is not."""

    function: str
    before: float
    after: float

    @property
    def instructions(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class Comparison:
    """One path. `percent` is the change of instructions; `moved` the functions that changed most, the largest first."""

    path: str
    stored: Count | None
    measured: Count
    verdict: Verdict
    percent: float | None
    moved: tuple[Moved, ...]


def differences(stored: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """What differs between two toolchains, as lines. Raises BenchError for another architecture: its instructions are
    others, and so is their number."""
    if stored.get("architecture") != here.get("architecture"):
        raise BenchError(
            f"the stored figures are of {stored.get('architecture')}, this is {here.get('architecture')}: they cannot "
            "be compared; keep figures of your own with --file"
        )
    return [
        f"{name}: stored {stored.get(name, 'nothing')}, here {here.get(name, 'nothing')}"
        for name in {**stored, **here}
        if stored.get(name) != here.get(name)
    ]


def allowed(tolerance: Tolerance, same_toolchain: bool) -> float:
    """The tolerance in percent."""
    return tolerance.same_toolchain if same_toolchain else tolerance.other_toolchain


def compare(stored: Figures, measured: Mapping[str, Count], percent: float) -> list[Comparison]:
    """Each measured path, judged with a tolerance of `percent`."""
    return [_one(path, stored.paths.get(path), count, percent) for path, count in measured.items()]


def _one(path: str, stored: Count | None, measured: Count, allowed_percent: float) -> Comparison:
    if stored is None:
        return Comparison(path, None, measured, Verdict.NEW, None, ())
    percent = (measured.instructions / stored.instructions - 1) * 100
    calls = measured.system_calls - stored.system_calls
    if percent > allowed_percent or calls > _CALLS:
        verdict = Verdict.WORSE
    elif percent < -allowed_percent or calls < -_CALLS:
        verdict = Verdict.BETTER
    else:
        verdict = Verdict.SAME
    return Comparison(path, stored, measured, verdict, percent, _moved(stored, measured))


def _moved(stored: Count, measured: Count) -> tuple[Moved, ...]:
    names: Iterable[str] = {**stored.functions, **measured.functions}
    all_moved = [Moved(name, stored.functions.get(name, 0.0), measured.functions.get(name, 0.0)) for name in names]
    # Below one instruction a function is not stored: not being there says nothing.
    changed = [moved for moved in all_moved if abs(moved.instructions) >= 1.0]
    return tuple(sorted(changed, key=lambda moved: (-abs(moved.instructions), moved.function))[:_TOP])
