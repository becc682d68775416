"""The service-time model of one server: a queue and what executes from it, as a function of time given from outside.

It does no I/O and reads no clock. Each change happens at the moment it is due, however late `advance` is called, so
that a late wake-up delays one answer and not all that follow it.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Final, Generic, TypeVar

from bench.emulator.distributions import Draw, drawing, ns
from bench.emulator.spec import Batched, Instant, Parallel, Serial
from bench.emulator.timeline import NEVER, Timeline

QUEUED: Final = 0
RUNNING: Final = 1
DONE: Final = 2
GONE: Final = 3

_UNLIMITED = 1 << 60


class Job:
    """One request in the model: where it stands, when it arrived (ns), its items, and its work (ns at full speed)."""

    __slots__ = ("arrived", "items", "state", "work")

    def __init__(self) -> None:
        self.arrived = 0
        self.items = 1
        self.state: int = DONE
        self.work = 0


J = TypeVar("J", bound=Job)


def _no_work() -> int:
    return 0


class _Running(Generic[J]):
    """An execution: `left` is the work that was left at `since`."""

    __slots__ = ("began", "jobs", "left", "since")

    def __init__(self, jobs: list[J], now: int, work: float) -> None:
        self.jobs = jobs
        self.began = self.since = now
        self.left = work


class Executor(Generic[J]):
    """Queue, batcher and execution slots of one server.

    Times are ns and never go back; callers call `advance(now)` before they tell of anything at `now`. `due` is when
    something happens next by itself (NEVER: nothing will).
    """

    def __init__(
        self,
        execution: Instant | Serial | Parallel | Batched,
        timeline: Timeline,
        random: Random,
        max_queue: int | None = None,
    ) -> None:
        """Raises BenchError if an empirical file is unusable."""
        self.due = NEVER
        self.peak = 0
        self._queue: OrderedDict[J, None] = OrderedDict()
        self._running: list[tuple[int, int, _Running[J]]] = []
        self._sequence = count()
        self._wake = NEVER
        self._busy = 0
        self._timeline = timeline
        self._random = random
        self._take(execution, max_queue)

    def __repr__(self) -> str:
        return f"<Executor waiting={len(self._queue)} running={len(self._running)} due={self.due}>"

    def _take(self, execution: Instant | Serial | Parallel | Batched, max_queue: int | None) -> None:
        # First what can fail, so that a failed change leaves all as it was.
        self._draw: Draw = (
            drawing(execution.time, self._random) if isinstance(execution, Serial | Parallel) else _no_work
        )
        self._max_queue = _UNLIMITED if max_queue is None else max_queue
        self._slots, self._max_batch, self._max_wait = 1, 1, 0
        self._batch_work: Callable[[int], int] | None = None
        if isinstance(execution, Instant):
            self._slots = _UNLIMITED
        elif isinstance(execution, Parallel):
            self._slots = execution.slots
        elif isinstance(execution, Batched):
            fixed, each = ns(execution.fixed_ms), ns(execution.per_item_ms)
            self._max_batch, self._max_wait = execution.max_batch, ns(execution.max_wait_ms)
            self._batch_work = lambda size: fixed + each * size

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @property
    def executing(self) -> int:
        """Executions that are under way, those of cancelled requests too."""
        return len(self._running)

    def in_flight(self) -> int:
        """Requests that wait or are executed and were not cancelled."""
        return len(self._queue) + sum(job.state == RUNNING for *_, run in self._running for job in run.jobs)

    def busy(self, now: int) -> int:
        """Execution time so far in ns, summed over the slots; stalls and slowness within an execution count."""
        return self._busy + sum(now - run.began for *_, run in self._running)

    def arrive(self, job: J, now: int) -> bool:
        """Takes a request; False if the queue is full. What it finishes at once is in the next `advance(now)`."""
        # Drawn on arrival and not at the start: cancelled requests and batching must not shift who gets which time.
        job.arrived, job.work = now, self._draw() * job.items
        job.state = QUEUED
        self._queue[job] = None
        self._start(now)
        if len(self._queue) > self._max_queue:
            del self._queue[job]
            job.state = GONE
            self._start(now)
            return False
        self.peak = max(self.peak, len(self._queue))
        return True

    def cancel(self, job: J, now: int) -> None:
        """The client has gone: a waiting request leaves the queue, a running execution goes on for nobody."""
        if job.state == QUEUED:
            del self._queue[job]
            self._start(now)
        if job.state != DONE:
            job.state = GONE

    def advance(self, now: int) -> list[J]:
        """Does everything that is due up to `now`; the requests that are finished, in order of their finish."""
        done: list[J] = []
        while self.due <= now:
            at = self.due
            while self._running and self._running[0][0] <= at:
                run = heapq.heappop(self._running)[2]
                self._busy += at - run.began
                for job in run.jobs:
                    if job.state == RUNNING:
                        job.state = DONE
                        done.append(job)
            self._start(at)
        return done

    def change(
        self,
        now: int,
        timeline: Timeline,
        execution: Instant | Serial | Parallel | Batched | None = None,
        max_queue: int | None = None,
    ) -> None:
        """From `now` on another speed and, if given, another execution with its queue limit.

        What is under way keeps the work that is left of it; what waits keeps its place and the work that it is (unless
        it now joins a batch). Raises BenchError if an empirical file is unusable; then nothing has changed.
        """
        if execution is not None:
            self._take(execution, max_queue)
        running = []
        for _, number, run in self._running:
            run.left = max(0.0, run.left - self._timeline.progress(run.since, now))
            run.since = now
            running.append((timeline.finish(now, run.left), number, run))
        heapq.heapify(running)
        self._running = running
        self._timeline = timeline
        self._start(now)

    def forget_peak(self) -> None:
        """The longest queue is looked for anew."""
        self.peak = len(self._queue)

    def _start(self, now: int) -> None:
        """Starts what can start at `now` and works out when to look again."""
        queue, running = self._queue, self._running
        self._wake = NEVER
        while queue and len(running) < self._slots:
            if (clear := self._timeline.clear(now)) > now:
                self._wake = clear
                break
            if len(queue) < self._max_batch and (ready := next(iter(queue)).arrived + self._max_wait) > now:
                self._wake = ready
                break
            jobs = [queue.popitem(last=False)[0] for _ in range(min(len(queue), self._max_batch))]
            for job in jobs:
                job.state = RUNNING
            work = jobs[0].work if self._batch_work is None else self._batch_work(len(jobs))
            finish = self._timeline.finish(now, work)
            heapq.heappush(running, (finish, next(self._sequence), _Running(jobs, now, work)))
        self.due = min(running[0][0], self._wake) if running else self._wake
