"""What a worker's comparisons of answers have found, until the master is told of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from msgspec import Struct

EQUAL, DIFFERENT, SKIPPED = range(3)  # places in the counts
WHAT = ("same", "values", "shape", "datatype", "missing", "added")  # by lb.inference.compare

_MOST_TENSORS = 256  # of a route between two tellings; the others are one
_MOST_SAMPLES = 8  # the same of differing answers; the first ones are kept
_LONGEST = 128  # characters of a name
_WAITING = 16  # comparisons that wait for the thread


class Found(Struct, frozen=True):
    """Of one output: how it differs, of how many elements how many, the largest differences, and the place of the first
    element that differs (-1: none) with its values, those of the original first."""

    name: str
    what: int
    count: int
    different: int
    absolute: float
    relative: float
    at: int
    first: float
    second: float

    def describe(self) -> str:
        """What is different, for a reader."""
        if WHAT[self.what] != "values":
            return f"output {self.name[:_LONGEST]}: {WHAT[self.what]}"
        values = f", {self.first:.9g} and {self.second:.9g}" if self.absolute else ""
        where = f"{self.different} of {self.count} elements, the first at {self.at}"
        return f"output {self.name[:_LONGEST]}: {where}{values}"


class Report:
    """Of one route. Loop and thread record alike."""

    def __init__(self, route: str) -> None:
        self.route = route
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._counts = [0, 0, 0]
        self._tensors: dict[tuple[str, str], list[Any]] = {}
        self._samples: list[dict[str, Any]] = []

    def record(self, result: int, model: str = "", outputs: Sequence[Found] = ()) -> None:
        """One comparison, EQUAL, DIFFERENT or SKIPPED, with what was found of the outputs."""
        with self._lock:
            self._counts[result] += 1
            for found in outputs:
                key = model[:_LONGEST], found.name[:_LONGEST]
                if key not in self._tensors and len(self._tensors) >= _MOST_TENSORS:
                    key = "", ""
                row = self._tensors.setdefault(key, [0, 0, 0.0, 0.0])
                row[0] += 1
                row[1] += WHAT[found.what] != "same"
                row[2], row[3] = max(row[2], found.absolute), max(row[3], found.relative)
            if result == DIFFERENT:
                self._sample(model, "; ".join(f.describe() for f in outputs if WHAT[f.what] != "same"))

    def record_statuses(self, original: int, copy: int) -> None:
        """One comparison of answers whose statuses of gRPC differ."""
        with self._lock:
            self._counts[DIFFERENT] += 1
            self._sample("", f"gRPC status {original} of the original, {copy} of the copy")

    def _sample(self, model: str, text: str) -> None:
        if len(self._samples) < _MOST_SAMPLES:
            self._samples.append({"at": time.time(), "model": model[:_LONGEST], "text": text[: 4 * _LONGEST]})

    def take(self) -> dict[str, Any] | None:
        """What was recorded since the last time, as plain types; None for nothing."""
        with self._lock:
            if not any(self._counts):
                return None
            tensors = [[*key, *row] for key, row in self._tensors.items()]
            taken = {"route": self.route, "counts": self._counts, "tensors": tensors, "samples": self._samples}
            self._begin()
            return taken


class Background:
    """A thread that compares, started with the first comparison. It ends with the process."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, compare: Callable[[], None]) -> bool:
        """Has it called; False where too many wait."""
        if self._queue.qsize() >= _WAITING:
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tidegate-compare", daemon=True)
            self._thread.start()
        self._queue.put(compare)
        return True

    def _run(self) -> None:
        while True:
            self._queue.get()()


background = Background()
_reports: dict[str, Report] = {}


def report_of(route: str) -> Report:
    """The one of that route, whatever plan it is in."""
    return _reports.setdefault(route, Report(route))


def taken() -> list[dict[str, Any]]:
    """What all reports have to tell (Report.take)."""
    return [found for report in _reports.values() if (found := report.take()) is not None]
