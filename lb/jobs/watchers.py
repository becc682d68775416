"""Who waits for news of a job: long polls, event streams, and submissions with `Prefer: wait`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from lb.jobs.job import Job


class Watch:
    """The news of one job for one client, newest last."""

    def __init__(self) -> None:
        self._news: asyncio.Queue[Job | None] = asyncio.Queue()

    async def next(self, seconds: float) -> Job | None:
        """The next news; None when `seconds` have passed without, or no more will come."""
        try:
            async with asyncio.timeout(seconds):
                return await self._news.get()
        except TimeoutError:
            return None

    def tell(self, job: Job | None) -> None:
        self._news.put_nowait(job)


class Watchers:
    """Those who wait, by job. Belongs to one loop."""

    def __init__(self) -> None:
        self._watches: dict[str, set[Watch]] = {}
        self.closed = False

    @contextlib.contextmanager
    def watching(self, job: str) -> Iterator[Watch]:
        """Begin before the job is looked at: no news is missed then."""
        watch = Watch()
        self._watches.setdefault(job, set()).add(watch)
        try:
            yield watch
        finally:
            watches = self._watches[job]
            watches.discard(watch)
            if not watches:
                del self._watches[job]

    def has(self, job: str) -> bool:
        """Whether anybody waits for news of the job."""
        return job in self._watches

    def tell(self, job: Job) -> None:
        """The job is now as `job` says."""
        for watch in self._watches.get(job.id, ()):
            watch.tell(job)

    def close(self) -> None:
        """No more news come: those who wait are answered with what there is."""
        self.closed = True
        for watches in self._watches.values():
            for watch in watches:
                watch.tell(None)
