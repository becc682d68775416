"""The jobs process as the master sees it: its start, its replacement, what it is told, and what it reports."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from lb.clock import Clock
from lb.config.forms import by_form, members_of
from lb.config.plan.access import IDENTITY
from lb.config.regular_file import without_bom
from lb.config.schema.access import access_of
from lb.config.schema.file import Config
from lb.config.schema.jobs import NatsConfig, NatsTlsConfig
from lb.config.units import SECOND
from lb.control.jobs.routes import calls_socket, service_socket, shares
from lb.control.sockets import Listening, listen
from lb.control.workers.backoff import Restarts, RestartSettings
from lb.control.workers.channel import Channel, Message
from lb.control.workers.fork_server import describe_exit
from lb.control.workers.launch import Launched, child_environment
from lb.errors import ConfigError, StartError
from lb.jobs.settings import NatsSettings, Settings, secret_of

log = logging.getLogger("tidegate.master")

COMMAND = (sys.executable, "-P", "-m", "lb.control.jobs")
_START = 30.0  # seconds for the first start
_STOP = 10.0  # seconds from `stop` to a kill
_SILENCE = 20 * SECOND  # without a report, which come twice a second
_LOOK = 1.0  # seconds
_ANSWER = 5.0  # seconds for what an operator asks
_NOTHING: Mapping[str, Any] = {
    "jobs": [], "oldest_s": 0.0, "running": 0, "submissions": {}, "ended": {}, "attempts": {}, "webhooks": {},
    "store_error": None,
}  # fmt: skip


class JobsSupervisor:
    """Keeps the jobs process running while the configuration has a section for it. `folder` is for its sockets. Belongs
    to the running loop."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._restarts = Restarts(RestartSettings())
        self._listening: Listening | None = None
        self._settings: Settings | None = None
        self._level = "info"
        self._launched: Launched | None = None
        self._channel: Channel | None = None
        self._pidfd = -1
        self._began = self._heard = 0
        self._again: asyncio.TimerHandle | None = None
        self._watching: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._ending: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._state = "off"
        self._error = self._said = ""
        self._stats: dict[str, Any] = dict(_NOTHING)
        self._told = False  # the process has told its numbers
        self._shares: dict[str, dict[str, float]] = {}

    def start(self, config: Config) -> None:
        """Starts the process, where the configuration has one. Raises StartError, ConfigError of a secret that cannot
        be used."""
        self._take(config)

    async def wait_ready(self) -> None:
        """Waits until the process serves, if there is one. Raises StartError when it does not."""
        if self._settings is None:
            return
        try:
            async with asyncio.timeout(_START):
                while self._state == "starting":
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise StartError(f"jobs: {self._settings.place} is not ready: another process may have it") from None
        if self._state != "running":
            raise StartError(f"the jobs process did not start: {self._error}")

    def check(self, config: Config) -> None:
        """Raises ConfigError when `apply` could not take the configuration."""
        settings_of(config, self._folder)

    def apply(self, config: Config) -> None:
        """Takes what a reload says: settings, or that there is, or no longer is, a process."""
        try:
            self._take(config)
        except (ConfigError, StartError) as error:
            log.error("%s", error)

    def drain(self) -> None:
        """The workers drain: no job begins any more, and nobody is kept waiting for news."""
        if self._channel is not None:
            self._channel.send({"type": "drain"})

    async def stop(self) -> None:
        """Ends the process. Jobs that still run are queued again by its next start."""
        self._end()
        await asyncio.gather(*self._ending)

    async def ask(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What the process answers to an operator (Parts.operate in lb.control.jobs.agent). Raises ConfigError where
        there are no jobs, StartError when the process does not answer."""
        if self._settings is None:
            raise ConfigError(["the configuration has no section jobs"])
        if self._channel is None or self._state != "running":
            raise StartError("the jobs process is not running")
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._asked[number] = answer
        try:
            self._channel.send({"type": "ask", "number": number, "asked": dict(asked)})
            async with asyncio.timeout(_ANSWER):
                found = await answer
        except TimeoutError:
            raise StartError("the jobs process did not answer in time") from None
        finally:
            del self._asked[number]
        if found["error"] is not None:
            raise StartError(found["error"])
        return found

    def backlog(self, pool: str) -> float | None:
        """The jobs for a pool that wait or run; None while that is not known."""
        if not self._told:
            return None
        found = 0.0
        for route, state, number in self._stats["jobs"]:
            if state in ("queued", "running"):
                found += number * self._shares.get(route, {}).get(pool, 0.0)
        return found

    def status(self) -> Mapping[str, Any] | None:
        """Of the status document; None without jobs."""
        if self._settings is None:
            return None
        pid = self._launched.process.pid if self._launched is not None else None
        return {"state": self._state, "pid": pid, "restarts": self._restarts.count, "error": self._error or None,
                **self._stats}  # fmt: skip

    def _take(self, config: Config) -> None:
        settings = settings_of(config, self._folder)
        self._shares = shares(config)
        before, self._settings, self._level = self._settings, settings, config.log.level
        if settings is None:
            if before is not None:
                self._end()
        elif before is None:
            self._listening = self._listening or listen(f"unix:{service_socket(self._folder)}")
            self._watching = self._loop.create_task(self._watch())
            self._spawn()
        elif self._channel is not None:
            self._channel.send(self._message())

    def _message(self) -> Message:
        return {
            "type": "settings",
            "settings": to_builtins(self._settings, builtin_types=(bytes,)),
            "level": self._level,
        }

    def _spawn(self) -> None:
        self._again = None
        self._began = self._heard = self._clock.now()
        self._state, self._stats, self._said, self._told = "starting", dict(_NOTHING), "", False
        try:
            launched = Launched(COMMAND, child_environment())
        except OSError as error:
            self._died(f"cannot start it: {error.strerror or error}")
            return
        self._launched = launched
        self._pidfd = os.pidfd_open(launched.process.pid)
        self._loop.add_reader(self._pidfd, self._exited)
        self._channel = Channel(
            self._loop, launched.socket, self._on_message, lambda reason: log.debug("jobs: the channel: %s", reason)
        )
        assert self._listening is not None
        self._channel.send(self._message(), [self._listening.socket.fileno()])

    def _on_message(self, message: Message, fds: list[int]) -> None:
        self._heard = self._clock.now()
        match message["type"]:
            case "ready":
                self._state, self._error = "running", ""
                log.info("jobs are served from %s", self._settings.place if self._settings is not None else "")
                if message["requeued"]:
                    log.info("%d jobs that were running are queued again", message["requeued"])
                self._changed.set()
            case "failed":
                self._said = message["error"]
            case "answer":
                asked = self._asked.get(message["number"])
                if asked is not None and not asked.done():
                    asked.set_result(message["answer"])
            case "stats":
                self._stats, self._told = message["stats"], True

    def _exited(self) -> None:
        launched = self._launched
        self._forget()
        code = launched.close() if launched is not None else None
        self._died(self._said or describe_exit(code))

    def _died(self, reason: str) -> None:
        now = self._clock.now()
        delay = self._restarts.died(self._began, now)
        self._error, self._state = reason, "backoff"
        log.error("the jobs process died: %s; the next one begins in %.1f s", reason, delay / SECOND)
        self._changed.set()
        self._again = self._loop.call_later(delay / SECOND, self._spawn)

    async def _watch(self) -> None:
        """Replaces a process that hangs. Two looks have to find it silent: after a pause of this process, or of the
        machine, its reports may only wait to be read."""
        looks = 0
        while True:
            await asyncio.sleep(_LOOK)
            silent = self._state == "running" and self._clock.now() - self._heard > _SILENCE
            looks = looks + 1 if silent else 0
            if self._launched is not None and looks > 1:
                log.error("the jobs process (pid %d) hangs: killing it", self._launched.process.pid)
                self._launched.process.kill()

    def _end(self) -> None:
        """There is to be no process; the one that there is ends in a task of `_ending`."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        launched, channel = self._launched, self._channel
        if launched is not None and channel is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._launched = self._channel = None
            channel.send({"type": "stop"})
            task = self._loop.create_task(_finish(launched, channel))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        self._state, self._stats, self._settings, self._told = "off", dict(_NOTHING), None, False

    def _forget(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._channel is not None:
            self._channel.close()
        self._launched = self._channel = None


async def _finish(launched: Launched, channel: Channel) -> None:
    """Waits for the end of a process that was told to stop, and kills it when that takes too long."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        await asyncio.to_thread(launched.process.wait, _STOP)
    channel.close()
    await asyncio.to_thread(launched.close)


def settings_of(config: Config, folder: Path) -> Settings | None:
    """What the jobs process is told; None without one. Raises ConfigError of a secret that cannot be used."""
    jobs = config.jobs
    if jobs is None:
        return None
    tenant = ("", "")
    if jobs.tenant is not None:
        tenant = jobs.tenant.key
    elif any(
        first.jobs and access_of(listener.auth, first.auth) is not None
        for listener in config.listeners.values()
        for first, _ in by_form(members_of(listener.routes))
    ):
        tenant = ("header", IDENTITY)
    urls: tuple[str, ...] = ()
    secret = b""
    if jobs.webhooks is not None:
        urls = tuple(jobs.webhooks.urls)
        try:
            secret = secret_of(without_bom(jobs.webhooks.secret_file.read_bytes()))
        except (OSError, ValueError) as error:
            raise ConfigError([f"jobs.webhooks.secret_file: {jobs.webhooks.secret_file}: {error}"]) from error
    return Settings(
        path=str(jobs.path or ""),
        calls=str(calls_socket(folder)),
        prefix=jobs.prefix,
        tenant=tenant,
        quota=jobs.quota,
        concurrency=jobs.concurrency,
        attempts=jobs.attempts,
        deadline=jobs.deadline / SECOND,
        keep=jobs.keep / SECOND,
        webhook_urls=urls,
        webhook_secret=secret,
        nats=_nats_settings(jobs.store.nats) if jobs.store is not None else None,
    )


def _nats_settings(config: NatsConfig) -> NatsSettings:
    def name(path: Path | None) -> str:
        return str(path) if path is not None else ""

    tls = config.tls or NatsTlsConfig()
    return NatsSettings(
        urls=tuple(config.urls),
        stream=config.stream,
        replicas=config.replicas,
        credentials_file=name(config.credentials_file),
        username=config.username or "",
        password_file=name(config.password_file),
        tls=config.urls[0].startswith("tls:"),
        ca_file=name(tls.ca_file),
        cert=name(tls.cert),
        key=name(tls.key),
    )
