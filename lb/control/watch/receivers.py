"""Webhooks that are told of problems: each has its own messages, in order, repeated until an answer of 2xx.

Signed as the webhooks of jobs are (https://www.standardwebhooks.com); a repetition has the same `webhook-id`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson

log = logging.getLogger("tidegate.watch")

TIMEOUT = 15.0  # seconds for an answer
PAUSES = (5.0, 15.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0)  # seconds between the attempts at a message
_MOST = 100  # messages that wait for a receiver; the oldest goes
_GONE = 410

Post = Callable[[str, bytes, dict[str, str]], Awaitable[int]]


class Receiver:
    """One URL. `post` gives the status of an answer, 0 for none. `told` counts attempts by their outcome."""

    def __init__(self, url: str, secret: bytes | None, post: Post, told: Counter[str]) -> None:
        self.url = url
        self.secret = secret
        self._post = post
        self._told = told
        self._messages: deque[tuple[str, bytes]] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Messages that it has yet to be told."""
        return len(self._messages)

    def tell(self, message: dict[str, Any]) -> None:
        """Returns at once."""
        if len(self._messages) >= _MOST:
            self._messages.popleft()
            self._told["dropped"] += 1
            log.warning("an alert for %s is dropped: %d others wait", self.name, _MOST)
        self._messages.append((os.urandom(16).hex(), orjson.dumps(message)))
        self._wake.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """What waits is given up."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def attempt(self, message: dict[str, Any]) -> int:
        """One attempt at a message, past those that wait; the status of the answer, 0 for none."""
        return await self._attempt(os.urandom(16).hex(), orjson.dumps(message))

    @property
    def name(self) -> str:
        """For people: a path may be the receiver's secret, as Slack's is."""
        return urlsplit(self.url).hostname or "a webhook"

    async def _run(self) -> None:
        while True:
            while self._messages:
                number, body = self._messages[0]
                await self._deliver(number, body)
                with contextlib.suppress(IndexError):
                    if self._messages[0][0] == number:  # it may have been dropped meanwhile
                        self._messages.popleft()
            self._wake.clear()
            await self._wake.wait()

    async def _attempt(self, number: str, body: bytes) -> int:
        headers = {"Content-Type": "application/json", "webhook-id": number}
        if self.secret is not None:
            from lb.jobs.webhooks import sign

            stamp = int(time.time())
            signature = sign(self.secret, number, stamp, body)
            headers |= {"webhook-timestamp": str(stamp), "webhook-signature": signature}
        return await self._post(self.url, body, headers)

    async def _deliver(self, number: str, body: bytes) -> None:
        for pause in (*PAUSES, None):
            status = await self._attempt(number, body)
            if 200 <= status < 300:
                self._told["delivered"] += 1
                return
            if status == _GONE or pause is None:
                self._told["given_up"] += 1
                log.warning("an alert for %s is given up: status %d", self.name, status)
                return
            self._told["failed"] += 1
            await asyncio.sleep(pause)


class Receivers:
    """Those of a configuration; one that a reload keeps also keeps its messages."""

    def __init__(self, post: Post | None = None) -> None:
        self.told: Counter[str] = Counter()
        self._session: Any = None
        self._post = post or self._send
        self._receivers: dict[str, Receiver] = {}

    @property
    def waiting(self) -> int:
        """Messages that receivers have yet to be told."""
        return sum(receiver.waiting for receiver in self._receivers.values())

    async def apply(self, urls: Sequence[str], secret: bytes | None) -> None:
        """Has these receivers, and no others."""
        for url in [url for url in self._receivers if url not in urls]:
            await self._receivers.pop(url).stop()
        for url in urls:
            receiver = self._receivers.setdefault(url, Receiver(url, secret, self._post, self.told))
            receiver.secret = secret

    def tell(self, message: dict[str, Any]) -> None:
        """Each of them; returns at once."""
        for receiver in self._receivers.values():
            receiver.tell(message)

    async def attempt(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        """One attempt at each of them: [{receiver, status}], the status 0 where none answered."""
        receivers = list(self._receivers.values())
        statuses = await asyncio.gather(*(receiver.attempt(message) for receiver in receivers))
        return [{"receiver": r.name, "status": status} for r, status in zip(receivers, statuses, strict=True)]

    async def close(self) -> None:
        """Gives up what waits."""
        await self.apply((), None)
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _send(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        import aiohttp
        import yarl

        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT), trust_env=True)
        whole = yarl.URL(url, encoded=url.isascii())  # as it is spelled: a query may be signed
        try:
            async with self._session.post(whole, data=body, headers=headers, allow_redirects=False) as answer:
                return int(answer.status)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return 0
