"""Dynamic batching: calls that wait while the model is busy are run together.

`Queue` decides, `Batcher` acts. A call is never held back to wait for others unless a queue delay is asked for: with
the default of 0 a batch is whatever came in while all runs were taken.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial

from backend.calls import Call
from backend.errors import BackendError, ModelFailure, Unavailable
from backend.model import Answer, Model


@dataclass(eq=False, slots=True)
class Job:
    """A call in the queue since `since` (monotonic ns)."""

    call: Call
    since: int
    done: asyncio.Future[Answer]


@dataclass(slots=True)
class Group:
    """Jobs that can run together, oldest first."""

    jobs: deque[Job] = field(default_factory=deque)
    rows: int = 0

    def push(self, job: Job) -> None:
        self.jobs.append(job)
        self.rows += job.call.rows

    def take(self, max_rows: int) -> list[Job]:
        """The oldest jobs that fit in `max_rows`; at least one, whatever its size."""
        taken: list[Job] = []
        rows = 0
        while self.jobs and (not taken or rows + self.jobs[0].call.rows <= max_rows):
            job = self.jobs.popleft()
            rows += job.call.rows
            taken.append(job)
        self.rows -= rows
        return taken


class Queue:
    """Waiting jobs by what can run together, and the decision which of them to run next.

    `delay` (ns) is how long the oldest job of a group may wait for the group to fill `max_rows`. Groups take turns, so
    no kind of call starves another.
    """

    def __init__(self, delay: int) -> None:
        self._delay = delay
        self._groups: OrderedDict[Hashable, Group] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, job: Job) -> None:
        self._groups.setdefault(_key(job), Group()).push(job)
        self._size += 1

    def remove(self, job: Job) -> bool:
        """False when the job is not (or no longer) waiting."""
        group = self._groups.get(_key(job))
        if group is None or job not in group.jobs:
            return False
        group.jobs.remove(job)
        group.rows -= job.call.rows
        self._size -= 1
        if not group.jobs:
            del self._groups[_key(job)]
        return True

    def _due(self, group: Group) -> int:
        """When the group runs however few it has (monotonic ns)."""
        return group.jobs[0].since + (self._delay if group.jobs[0].call.key is not None else 0)

    def take(self, now: int, max_rows: int) -> list[Job]:
        """Jobs to run together now; none when every group may still wait."""
        for key, group in self._groups.items():
            if self._delay and group.rows < max_rows and now < self._due(group):
                continue
            jobs = group.take(max_rows)
            self._size -= len(jobs)
            del self._groups[key]
            if group.jobs:
                self._groups[key] = group  # behind the others
            return jobs
        return []

    def next_due(self) -> int | None:
        """When `take` will have something without any new job (monotonic ns); None when nothing waits."""
        return min(map(self._due, self._groups.values()), default=None)


def _key(job: Job) -> Hashable:
    return job if job.call.key is None else job.call.key


class Batcher:
    """Runs the calls of one model on `executor`, at most `runs` at once, `max_queue` waiting. Belongs to one loop."""

    def __init__(
        self,
        model: Model,
        executor: Executor,
        *,
        runs: int,
        max_queue: int,
        delay: int,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._model = model
        self._executor = executor
        self._runs = runs
        self._max_queue = max_queue
        self._clock = clock
        self._queue = Queue(delay)
        self._timer: asyncio.TimerHandle | None = None
        self.running = 0

    async def submit(self, call: Call) -> Answer:
        """The answer to `call`. Cancelling the caller takes the call out of the queue.

        Raises Unavailable when the queue is full, and the call's own error.
        """
        started = self._clock()
        if self.running >= self._runs and len(self._queue) >= self._max_queue:
            raise Unavailable(f"{self._model}: {self._max_queue} requests are waiting already")
        job = Job(call, started, asyncio.get_running_loop().create_future())
        self._queue.push(job)
        self._pump()
        try:
            return await job.done
        except asyncio.CancelledError:
            self._queue.remove(job)
            raise

    def _pump(self) -> None:
        now = self._clock()
        while self.running < self._runs and (jobs := self._queue.take(now, self._model.max_batch)):
            self.running += 1
            loop = asyncio.get_running_loop()
            run = loop.run_in_executor(self._executor, self._model.execute, [job.call for job in jobs])
            run.add_done_callback(partial(self._finish, jobs, now))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._queue.next_due() if self.running < self._runs else None
        if due is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0, due - now) / 1e9, self._pump)

    def _finish(self, jobs: list[Job], started: int, run: asyncio.Future[list[Answer | BackendError]]) -> None:
        self.running -= 1
        now = self._clock()
        if run.cancelled():  # the executor was shut down before the run began
            results: list[Answer | BackendError] = [Unavailable("the server is stopping")] * len(jobs)
        elif (error := run.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"{self._model}: a run ended in an unexpected error", "exception": error}
            )
            results = [ModelFailure(f"{self._model} failed unexpectedly; the server's log has more")] * len(jobs)
        else:
            results = run.result()
        self._count(jobs, results, started, now)
        for job, result in zip(jobs, results, strict=True):
            if job.done.done():  # its client has left
                continue
            if isinstance(result, BackendError):
                job.done.set_exception(result)
            else:
                job.done.set_result(result)
        self._pump()

    def _count(self, jobs: list[Job], results: list[Answer | BackendError], started: int, now: int) -> None:
        statistics = self._model.statistics
        runs = {id(result.times): result.times for result in results if isinstance(result, Answer)}
        for times in runs.values():
            statistics.ran(times, time.time_ns() // 1_000_000)
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, Answer):
                statistics.succeeded(job.call.rows, now - job.since, started - job.since, result.times)
            else:
                statistics.failed(now - job.since)
