"""Webhooks: the end of a job is told to a URL, signed as Standard Webhooks says (https://www.standardwebhooks.com).

A delivery is repeated until an answer of 2xx, with growing pauses, at most 12 times in about 8 hours; 410 ends it at
once. The receiver tells repetitions by `webhook-id`, which is the job's id.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

import orjson

from lb.jobs.job import Delivery, receiver_of
from lb.jobs.settings import Settings
from lb.jobs.store import JobStore, StoreError, level_of
from lb.tasks import end_tasks

log = logging.getLogger("tidegate.jobs")

TIMEOUT = 15.0  # seconds for an answer
_PAUSES = (5, 15, 60, 120, 300, 600, 1200, 2400, 3600, 7200, 14400)  # seconds
AT_ONCE = 256  # deliveries under way
_OF_ONE = 64  # of these to one receiver, so that one which hangs leaves room for others
_LOOK = 0.5
_GONE = 410

Post = Callable[[str, bytes, dict[str, str]], Awaitable[int]]


def allowed(url: str, beginnings: Sequence[str]) -> bool:
    """Whether a URL has the scheme, host and port of one of `beginnings`, and a path below its own. One that can be
    read in two ways is not."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    path = parts.path.lower()
    if not url.isascii() or not url.isprintable() or any(c in url for c in " \\#@"):
        return False
    # Encoded dots and slashes are plain ones to who posts (yarl takes dot segments away) or to who receives.
    if ".." in path or any(code in path for code in ("%2e", "%2f", "%5c")):
        return False
    for beginning in beginnings:
        known = urlsplit(beginning)
        folder = known.path.rstrip("/")
        if (parts.scheme, parts.hostname, port) == (known.scheme, known.hostname, known.port) and (
            parts.path == folder or parts.path.startswith(f"{folder}/")
        ):
            return True
    return False


def sign(secret: bytes, message: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: version 1, HMAC-SHA256 in base64."""
    content = f"{message}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(secret, content, hashlib.sha256)).decode()


class Webhooks:
    """Tells webhooks of a store's jobs. `post(url, body, headers)` gives the status of the answer, 0 for none; `body`
    of a delivery is made by `describe`. `told` counts attempts by their outcome."""

    def __init__(
        self,
        store: JobStore,
        settings: Settings,
        post: Post,
        describe: Callable[[Delivery], object],
        wall: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.told: Counter[str] = Counter()
        self._store = store
        self._post = post
        self._describe = describe
        self._wall = wall
        self._wake = asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._told_now: Counter[str] = Counter()  # deliveries under way, by receiver

    def wake(self) -> None:
        """A job has ended."""
        self._wake.set()

    async def run(self) -> None:
        """Until it is cancelled. A receiver that is slow to answer keeps no other waiting: of 256 deliveries at a time
        at most 64 are to one."""
        try:
            while True:
                self._wake.clear()
                try:
                    await self._begin()
                except StoreError as error:
                    log.log(level_of(error), "webhooks cannot be told: %s", error)
                await self._wait()
        finally:
            await end_tasks(self._running.values())

    async def _begin(self) -> None:
        if len(self._running) >= AT_ONCE:
            return
        # Those under way are due as well, until their outcome is stored, which may be while the store is read.
        under_way = set(self._running)
        busy = [receiver for receiver, n in self._told_now.items() if n >= _OF_ONE]
        for delivery in await self._store.deliveries(self._wall(), AT_ONCE, busy):
            receiver = receiver_of(delivery.url)
            if delivery.job.id in under_way or len(self._running) >= AT_ONCE:
                continue
            if self._told_now[receiver] >= _OF_ONE:
                self._wake.set()  # what is behind those of a busy receiver is looked for without them
                continue
            self._told_now[receiver] += 1
            self._running[delivery.job.id] = asyncio.create_task(self._attempt(delivery, receiver))

    async def _attempt(self, delivery: Delivery, receiver: str) -> None:
        try:
            due = await self._deliver(delivery)
            await self._settle(delivery, due)
        finally:
            del self._running[delivery.job.id]
            self._told_now[receiver] -= 1
            if not self._told_now[receiver]:
                del self._told_now[receiver]
            self._wake.set()

    async def _settle(self, delivery: Delivery, due: float | None) -> None:
        """What the store does not take now is offered again: else the webhook would be told again, too."""
        pause = 0.1
        while True:
            try:
                if due is None:
                    await self._store.delivered(delivery)
                else:
                    await self._store.delay_delivery(delivery, due)
                return
            except StoreError as error:
                log.log(
                    level_of(error),
                    "job %s: the outcome of its webhook cannot be stored yet: %s",
                    delivery.job.id,
                    error,
                )
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_LOOK):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _deliver(self, delivery: Delivery) -> float | None:
        """When it is to be told again; None for never."""
        job, now = delivery.job, self._wall()
        if not allowed(delivery.url, self.settings.webhook_urls):  # no longer, by a reload
            self.told["refused"] += 1
            return None
        body = orjson.dumps(self._describe(delivery))
        headers = {
            "Content-Type": "application/json",
            "webhook-id": job.id,
            "webhook-timestamp": str(int(now)),
            "webhook-signature": sign(self.settings.webhook_secret, job.id, int(now), body),
        }
        status = await self._post(delivery.url, body, headers)
        if 200 <= status < 300:
            self.told["delivered"] += 1
            return None
        if status == _GONE or delivery.failures >= len(_PAUSES):
            self.told["given_up"] += 1
            log.warning("the webhook of job %s is given up: status %d", job.id, status)
            return None
        self.told["failed"] += 1
        return now + _PAUSES[delivery.failures]
