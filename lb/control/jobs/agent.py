"""The jobs process: the parts of lb.jobs on one loop, and the channel to the master.

The master sends `settings` (first with the listening socket), `ask`, `drain` and `stop`; it gets `ready`, or `failed`
with the reason, then `stats` twice a second, and an `answer` to each `ask`. The process ends when the channel does:
whoever comes next waits for its lock.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import setproctitle
import uvloop
from aiohttp import web
from msgspec import convert

from lb.control import signals
from lb.control.jobs.acceptor import Acceptor
from lb.control.logs import set_level, setup_logging
from lb.control.workers.channel import Channel, Message
from lb.jobs.calls import Calls
from lb.jobs.job import Job, State
from lb.jobs.runner import Runner
from lb.jobs.service import JobService, describe
from lb.jobs.settings import HEAD_FIELDS, HEAD_LINE, Settings
from lb.jobs.sqlite import SqliteStore
from lb.jobs.store import JobStore, StoreError
from lb.jobs.watchers import Watchers
from lb.jobs.webhooks import AT_ONCE, TIMEOUT, Webhooks
from lb.tasks import end_tasks

log = logging.getLogger("tidegate.jobs")

STATS = 0.5  # seconds between two reports
_GRACE = 5.0  # seconds for answers under way at the end


class Agent:
    """The jobs process from its first settings to its end."""

    def __init__(self, channel: socket.socket) -> None:
        self._stop = asyncio.Event()
        self._settings: Settings | None = None
        self._parts: Parts | None = None
        self._serving: asyncio.Task[None] | None = None
        self._code = 0
        self._answering: set[asyncio.Task[None]] = set()
        self._channel = Channel(asyncio.get_running_loop(), channel, self._on_message, lambda reason: os._exit(1))

    async def run(self) -> int:
        """The exit status."""
        await self._stop.wait()
        if self._serving is not None:
            await end_tasks([self._serving])
        self._channel.close()
        return self._code

    def _on_message(self, message: Message, fds: list[int]) -> None:
        match message["type"]:
            case "settings":
                settings = convert(message["settings"], Settings)
                set_level(message["level"])
                if fds and self._serving is None:
                    listening = socket.socket(fileno=fds.pop())
                    self._serving = asyncio.create_task(self._serve(listening, settings))
                elif self._parts is not None:
                    self._parts.apply(settings)
            case "ask" if self._parts is not None:
                task = asyncio.create_task(self._answer(self._parts, message))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
            case "drain" if self._parts is not None:
                self._parts.drain()
            case "stop":
                self._stop.set()
        for fd in fds:
            os.close(fd)

    async def _answer(self, parts: Parts, message: Message) -> None:
        try:
            answer = {"error": None, **await parts.operate(message["asked"])}
        except StoreError as error:
            answer = {"error": str(error)}
        self._channel.send({"type": "answer", "number": message["number"], "answer": answer})

    async def _serve(self, listening: socket.socket, settings: Settings) -> None:
        try:
            async with contextlib.AsyncExitStack() as cleanup:
                self._parts = await Parts.start(listening, settings, cleanup)
                self._channel.send({"type": "ready", "requeued": self._parts.requeued})
                while True:
                    self._channel.send({"type": "stats", "stats": await self._parts.stats()})
                    await asyncio.sleep(STATS)
        except StoreError as error:
            log.error("%s", error)
            self._channel.send({"type": "failed", "error": str(error)})
            self._code = 1
            self._stop.set()
        except Exception:  # one that nobody foresaw: the next process begins from what is stored
            log.exception("the jobs process ends")
            self._code = 1
            self._stop.set()


class Parts:
    """Store, runner, service and webhooks, made for each other."""

    def __init__(
        self, store: JobStore, watchers: Watchers, runner: Runner, service: JobService, webhooks: Webhooks
    ) -> None:
        self.requeued = 0
        self._store = store
        self._watchers = watchers
        self._runner = runner
        self._service = service
        self._webhooks = webhooks

    @classmethod
    async def start(cls, listening: socket.socket, settings: Settings, cleanup: contextlib.AsyncExitStack) -> Parts:
        """Everything up, and in `cleanup`. Raises StoreError."""
        watchers = Watchers()
        # Of its jobs another daemon may change one, or take it: the runner, which is made below, gives it up.
        store = _store(settings, watchers.tell, lambda job: runner.lost(job))
        cleanup.push_async_callback(store.close)
        requeued = await store.open(time.time())
        calls = Calls(settings.calls)
        cleanup.push_async_callback(calls.close)
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=AT_ONCE),  # whose own limit is less
            timeout=aiohttp.ClientTimeout(total=TIMEOUT),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        cleanup.push_async_callback(session.close)

        async def post(url: str, body: bytes, headers: dict[str, str]) -> int:
            try:
                async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                    return answer.status
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                # The text of an error may have the URL, whose path may be the receiver's secret.
                log.warning("the webhook at %s does not answer: %s", urlsplit(url).hostname, type(error).__name__)
                return 0

        webhooks = Webhooks(
            store,
            settings,
            post,
            lambda told: describe(told.job, f"{webhooks.settings.prefix}/{told.job.id}"),
            time.time,
        )
        runner = Runner(store, settings, watchers, calls.call, time.time, webhooks.wake)
        service = JobService(store, settings, watchers, runner, time.time)
        web_runner = web.AppRunner(
            service.application(),
            access_log=None,
            handle_signals=False,
            auto_decompress=False,
            keepalive_timeout=3600,  # the worker closes first
            shutdown_timeout=_GRACE,
            max_line_size=HEAD_LINE,
            max_field_size=HEAD_LINE,
            max_headers=HEAD_FIELDS,
        )
        await web_runner.setup()
        cleanup.push_async_callback(web_runner.cleanup)
        cleanup.callback(watchers.close)
        assert web_runner.server is not None  # after `setup`
        acceptor = Acceptor(listening, web_runner.server)
        cleanup.callback(acceptor.close)
        for work in (runner.run(), webhooks.run()):
            task = asyncio.create_task(work)
            cleanup.push_async_callback(end_tasks, [task])
        parts = cls(store, watchers, runner, service, webhooks)
        parts.requeued = requeued
        return parts

    def apply(self, settings: Settings) -> None:
        """Those of a reload, for what comes from now on."""
        self._runner.settings = self._service.settings = self._webhooks.settings = settings

    def drain(self) -> None:
        """Begins nothing more; those who wait for news are answered."""
        self._runner.drain()
        self._watchers.close()

    async def operate(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What an operator asks: {list: state or None, last} gives the `jobs`; {retry: id} and {cancel: id} the `job`
        (None where there is none), and whether that was `done`. Raises StoreError."""
        if "list" in asked:
            state = asked["list"]
            return {"jobs": await self._service.latest(State(state) if state is not None else None, asked["last"])}
        change = self._service.requeue if "retry" in asked else self._service.cancel
        job, done = await change(asked["retry"] if "retry" in asked else asked["cancel"])
        return {"job": None if job is None else self._service.described(job), "done": done}

    async def stats(self) -> dict[str, Any]:
        """What the master shows: see lb.control.jobs.supervisor."""
        oldest = await self._store.oldest()
        return {
            "jobs": [[route, state.value, n] for (route, state), n in (await self._store.counts()).items()],
            "oldest_s": max(0.0, time.time() - oldest) if oldest else 0.0,
            "running": self._runner.running,
            "submissions": dict(self._service.accepted),
            "ended": dict(self._runner.ended),
            "attempts": dict(self._runner.attempts),
            "webhooks": dict(self._webhooks.told),
            "store_error": self._store.error or None,
        }


def _store(settings: Settings, changed: Callable[[Job], None], lost: Callable[[str], None]) -> JobStore:
    """Where the settings say. Raises StoreError."""
    if settings.nats is None:
        return SqliteStore(Path(settings.path))
    try:
        from lb.jobs.jetstream import JetStreamStore
    except ImportError:
        raise StoreError("jobs in NATS need the package nats-py: pip install 'tidegate[nats]'") from None
    return JetStreamStore(settings.nats, changed, lost)


def main() -> int:
    """The command line of the jobs process."""
    parser = argparse.ArgumentParser(prog="python -m lb.control.jobs")
    parser.add_argument("--channel", type=int, required=True)
    fd = parser.parse_args().channel
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the master says when: it drains first
    signals.ignore()
    setup_logging("jobs")
    setproctitle.setproctitle("tidegate: jobs")
    status: int = uvloop.run(_run(fd))
    return status


async def _run(fd: int) -> int:
    return await Agent(socket.socket(fileno=fd)).run()
