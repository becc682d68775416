"""The workers of a master: start and replace them, publish plans to all of them or to none, watch their heartbeats."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct, field
from msgspec.structs import asdict

from lb.clock import Clock
from lb.config.units import SECOND, format_duration
from lb.control.workers.backoff import Restarts, RestartSettings
from lb.control.workers.channel import MAX_FDS, Channel, ChannelError, Message
from lb.control.workers.fork_server import ForkServer, describe_exit
from lb.control.workers.launch import COMMAND, Launched, worker_environment
from lb.control.workers.member import Member, Publication
from lb.control.workers.process import WorkerProcess
from lb.errors import ConfigError, StartError, TidegateError
from lb.upstream.start import Start

log = logging.getLogger("tidegate.master")

# What a dead worker had in flight counts for this many seconds longer: the endpoints, whose connections the kernel has
# closed, go on with it until they notice.
NOTICE = 1.0
_EXPLAIN = 5.0  # seconds for a worker to explain a choice
_COUNT = 2.0  # seconds for a worker to tell what it has counted
_LOOKS = 4  # at a worker's silence, before it is taken for hanging
_RESOURCE_EXHAUSTED, _UNIMPLEMENTED = 8, 12  # of gRPC


async def _unanswered(pool: str, method: str, request: bytes) -> tuple[int, str, bytes]:
    return _UNIMPLEMENTED, f"{method} is not answered here", b""


class PublishError(TidegateError):
    """A worker did not take a plan; every worker has the old one."""


class WorkerGone(TidegateError):
    """A worker that was asked is not there, or died before it answered."""


class SegmentLike(Protocol):
    @property
    def fd(self) -> int: ...
    def clear_worker(self, worker: int) -> list[tuple[int, int, int]]: ...
    def forget(self, lost: list[tuple[int, int, int]]) -> None: ...


class FleetSettings(Struct, frozen=True):
    """Times in nanoseconds; tests shorten them."""

    start_timeout: int = 60 * SECOND  # from a process's start to its first frame
    apply_timeout: int = 15 * SECOND  # from a plan to the last acknowledgement
    hang_timeout: int = 20 * SECOND  # a worker without a heartbeat for so long is killed and replaced
    fork_timeout: int = 5 * SECOND  # a fork server that has not made a worker within it is killed and replaced
    kill_grace: int = 3 * SECOND  # after the end of a drain
    restarts: RestartSettings = field(default_factory=RestartSettings)
    command: Sequence[str] = COMMAND
    early: Launched | None = None  # a fork server that was started before the master


class Fleet:
    """`size` workers on the running loop; `access_log` gives the descriptor of the open access log, or -1.

    `recover(worker)` is called when a worker has died, before it is replaced, to mend what it may have left in shared
    memory. The other workers are woken then: they may have waited for it.
    `answer(pool, method, request)` answers what workers ask of a whole pool: gRPC status, message and reply.
    `wake(pool)` is called when requests wait in a worker for an endpoint of a pool that has none.
    """

    def __init__(
        self,
        size: int,
        segment: SegmentLike,
        settings: FleetSettings,
        clock: Clock,
        access_log: Callable[[], int],
        recover: Callable[[int], None] = lambda worker: None,
        answer: Callable[[str, str, bytes], Awaitable[tuple[int, str, bytes]]] = _unanswered,
        wake: Callable[[str], None] = lambda pool: None,
        compared: Callable[[list[dict[str, Any]]], None] = lambda found: None,
    ) -> None:
        self._recover = recover
        self._wake = wake
        self._compared = compared
        self._starts: dict[str, Start] = {}  # pool -> what was told last, for workers that come up
        self._answer = answer
        self._answering: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._segment = segment
        self._settings = settings
        self._clock = clock
        self._access_log = access_log
        # They outlive the workers, so that nobody has to be told of a new one.
        self._wakeups = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(size)] if size > 1 else []
        self._current: Publication | None = None
        self._under_way: Publication | None = None
        self._stopping = False
        self._changed = asyncio.Event()
        self._numbers = itertools.count()  # of explanations
        self._looked: int | None = None  # when heartbeats were last looked at
        self._server = ForkServer(
            self._loop, settings.command, worker_environment, settings.fork_timeout / SECOND, settings.early
        )
        self.members = [Member(i, Restarts(settings.restarts)) for i in range(size)]

    async def start(self) -> None:
        """Starts all workers and waits until each is there. Raises StartError as soon as one dies first."""
        for member in self.members:
            self._spawn(member)
        try:
            async with asyncio.timeout(self._settings.start_timeout / SECOND):
                while any(member.state == "starting" for member in self.members):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise StartError("the workers did not start in time") from None
        for member in self.members:
            if member.state != "idle":
                raise StartError(f"worker {member.index} did not start: {member.last_exit}")

    async def publish(self, publication: Publication) -> None:
        """Gives a plan to every worker and returns once each has acknowledged. The successor of a worker that dies
        meanwhile gets it in its place; one that is not there in time gets it when it comes.

        Raises PublishError, with the old plan everywhere, when a worker refuses it or does not answer in time, or when
        a worker's place loses two processes that had it: then the plan may be the cause.
        """
        members = [m for m in self.members if m.state in ("starting", "idle", "running")]
        self._under_way = publication
        for member in members:
            member.answer, member.lost = self._loop.create_future(), 0
            if member.state != "starting":
                self._offer(member, publication)
        answers = [m.answer for m in members if m.answer is not None]
        try:
            if answers:
                await asyncio.wait(answers, timeout=self._settings.apply_timeout / SECOND)
            outcomes = [(m, self._outcome(m, publication)) for m in members]
        finally:
            self._under_way = None
            for member in members:
                member.answer = None
        failures = [f"worker {m.index}: {outcome}" for m, outcome in outcomes if outcome]
        if not any(outcome == "" for _, outcome in outcomes):  # nobody has shown that it can be taken
            failures = failures or [f"worker {m.index}: {_death(m)}" for m in members if m.lost]
            if not failures and self._current is None:
                failures = ["no worker is running"]
        if failures:
            self._revert(members, publication.plan.generation)
            raise PublishError("; ".join(failures))
        self._current = publication
        started = {pool.name for pool in publication.plan.pools if pool.managed or pool.on_demand}
        self._starts = {pool: start for pool, start in self._starts.items() if pool in started}
        for member in self.members:
            if member.state in ("idle", "running"):
                if member.sent != publication.plan.generation:  # it came up while the others answered
                    self._bring_in(member, publication)
                else:
                    self._commit(member, publication)

    def _offer(self, member: Member, publication: Publication) -> None:
        try:
            self._send(member, publication)
        except ChannelError as error:
            member.settle(str(error))

    async def explain(self, asked: Mapping[str, Any], worker: int | None) -> dict[str, Any]:
        """What `worker` (default: the first that runs) would do with a request, a
        lb.proxy.exchange.explain.described.Described as plain types. Raises ConfigError with what cannot be asked,
        StartError when nobody answers."""
        for member in self.members:
            if member.state != "running" or worker not in (None, member.index):
                continue
            try:
                message = await self._asked(member, {"type": "explain", "asked": dict(asked)}, _EXPLAIN)
            except WorkerGone:
                continue  # the next one knows as much
            except TimeoutError:
                raise StartError(f"worker {member.index} did not answer in time") from None
            if message["error"]:
                raise ConfigError([message["error"]])
            return {"worker": member.index, **message["answer"]}
        raise StartError("no worker is running" if worker is None else f"worker {worker} is not running")

    async def _asked(self, member: Member, question: Message, seconds: float) -> Message:
        """A worker's answer to a question. Raises WorkerGone, TimeoutError, ChannelError."""
        if member.channel is None:
            raise WorkerGone
        number = next(self._numbers)
        answer = member.asked[number] = self._loop.create_future()
        try:
            member.channel.send({**question, "number": number})
            async with asyncio.timeout(seconds):
                message: Message = await answer
        finally:
            del member.asked[number]
        return message

    async def model_counts(self, pool: str) -> dict[str, list[tuple[str, list[int]]]]:
        """Inferences of a pool by model, as lb.upstream.model_counts has them, by the worker's process that has counted
        them. Those that do not answer in time are left out."""
        found = await asyncio.gather(*(self._counted(m, pool) for m in self.members if m.state == "running"))
        return {who: counts for who, counts in found if counts is not None}

    async def _counted(self, member: Member, pool: str) -> tuple[str, list[tuple[str, list[int]]] | None]:
        who = f"worker {member.index}, pid {member.process.pid if member.process else 0}"
        try:
            message = await self._asked(member, {"type": "count", "pool": pool}, _COUNT)
        except (TimeoutError, ChannelError, WorkerGone):
            return who, None
        return who, [(model, counts) for model, counts in message["counts"]]

    def tiers(self) -> dict[str, dict[str, Any]]:
        """How the cache tiers of the workers are, as they said it last (lb.cache.tiers.tier.TierStatus)."""
        return {str(member.index): member.tier for member in self.members if member.tier is not None}

    def tell_start(self, pool: str, start: Start) -> None:
        """Tells every worker how the start of an endpoint of a pool goes on."""
        if start.lasts:
            self._starts[pool] = start
        for member in self.members:
            if member.channel is not None and member.state in ("idle", "running"):
                member.channel.send({"type": "start", "pool": pool, "start": asdict(start)})

    def hand_over(self, drain_timeout_ns: int) -> tuple[list[tuple[int, int, int, bool]], list[int]]:
        """Tells the workers that the master is about to be another program, which lets them go: they drain for so long
        then. (pid, pidfd, descriptor of our end of the channel, whether it ends with a whole frame) of each, and the
        processes that are ours to wait for."""
        found = []
        for member in self.members:
            if member.process is None or member.channel is None or member.process.pidfd < 0:
                continue
            member.channel.send({"type": "handover", "drain_timeout_ns": drain_timeout_ns})
            whole = member.channel.unsent == 0
            found.append((member.process.pid, member.process.pidfd, member.process.socket.fileno(), whole))
        return found, [self._server.pid] if self._server.pid is not None else []

    def keep(self) -> None:
        """The master stays: what `hand_over` said does not hold."""
        for member in self.members:
            if member.channel is not None:
                member.channel.send({"type": "handover", "drain_timeout_ns": None})

    def reopen_log(self) -> None:
        """Passes the access log's new descriptor to every worker."""
        for member in self.members:
            try:
                self._send_log(member)
            except ChannelError as error:
                log.error("worker %d goes on with the old access log: %s", member.index, error)

    def check_beats(self, now: int) -> bool:
        """Kills workers that hang; returns whether every worker with a process has been heard of lately.

        Lately is half of the time after which it is killed, so that a watchdog behind it notices a kill without effect.
        """
        fresh = True
        since_look = 0 if self._looked is None else now - self._looked
        self._looked = now
        for member in self.members:
            if member.process is None:
                continue
            limit = self._settings.start_timeout if member.state == "starting" else self._settings.hang_timeout
            # Where we stood still ourselves (a machine that was paused, swapping), heartbeats wait to be read.
            member.last_beat = min(now, member.last_beat + max(0, since_look - limit // _LOOKS))
            silent = now - member.last_beat
            fresh = fresh and silent < limit // 2
            if silent >= limit and not member.killed and member.state != "stopping":
                log.error("worker %d (pid %d) hangs: killing it", member.index, member.process.pid)
                member.killed = True
                member.process.kill()
        return fresh

    async def stop(self, drain_timeout_ns: int, at_once: asyncio.Event) -> None:
        """Drains all workers and waits for their end. `at_once` cuts the drain short."""
        self._stopping = True
        self._stop_all(drain_timeout_ns)
        limit = self._loop.time() + (drain_timeout_ns + self._settings.kill_grace) / SECOND
        hurry = asyncio.ensure_future(at_once.wait())
        try:
            while any(m.process for m in self.members):
                self._changed.clear()
                change = asyncio.ensure_future(self._changed.wait())
                waiting = {change} if hurry.done() else {change, hurry}
                timeout = max(0.0, limit - self._loop.time())
                done, _ = await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
                if hurry in done:
                    self._stop_all(0)
                    limit = min(limit, self._loop.time() + self._settings.kill_grace / SECOND)
                elif not done:
                    self.kill()
                    limit = self._loop.time() + 3600
        finally:
            hurry.cancel()
            self._server.close()
            while self._wakeups:
                os.close(self._wakeups.pop())

    def kill(self) -> None:
        self._stopping = True
        for member in self.members:
            if member.process is not None:
                log.error("worker %d (pid %d) did not stop: killing it", member.index, member.process.pid)
                member.process.kill()

    def _stop_all(self, drain_timeout_ns: int) -> None:
        for member in self.members:
            if member.channel is not None:
                member.state = "stopping"
                member.channel.send({"type": "stop", "drain_timeout_ns": drain_timeout_ns})

    def _spawn(self, member: Member) -> None:
        if self._stopping:
            return
        now = self._clock.now()
        try:
            process = WorkerProcess(
                self._loop,
                self._server,
                member.index,
                self._segment.fd,
                self._wakeups,
                lambda code: self._exited(member, code),
            )
        except StartError as error:
            member.last_exit = str(error)
            log.error("%s", error)
            self._restart(member, now, now)
            return
        member.process, member.state, member.started, member.last_beat = process, "starting", now, now
        member.generation = member.sent = member.busy = 0
        member.killed = False
        member.known, member.stats, member.tier = set(), {}, None
        member.channel = Channel(
            self._loop,
            process.socket,
            lambda message, fds: self._on_message(member, message),
            lambda reason: log.debug("the channel to worker %d ended: %s", member.index, reason),
        )

    def _exited(self, member: Member, code: int | None) -> None:
        now = self._clock.now()
        if member.channel is not None:
            member.channel.close()
        pid = member.process.pid if member.process else 0
        member.process = member.channel = None
        member.last_exit = describe_exit(code)
        if lost := self._segment.clear_worker(member.index):
            self._loop.call_later(NOTICE, self._segment.forget, lost)
        self._recover(member.index)
        self._wake_workers()
        for question in member.asked.values():
            if not question.done():
                question.set_exception(WorkerGone())
        if self._under_way is not None and member.sent == self._under_way.plan.generation:
            member.lost += 1
        if self._stopping:
            member.state = "stopped"
            log.log(
                logging.INFO if code == 0 else logging.WARNING, "worker %d ended: %s", member.index, member.last_exit
            )
        else:
            log.error("worker %d (pid %d) died: %s", member.index, pid, member.last_exit)
            self._restart(member, member.started, now)
        if member.lost > 1 or self._current is None or self._stopping:
            member.settle(_death(member))
        elif member.state != "starting":  # its successor comes later, and gets what is in force then
            member.settle(None)
        self._changed.set()

    def _wake_workers(self) -> None:
        for wakeup in self._wakeups:
            with contextlib.suppress(BlockingIOError):  # full: it rings already
                os.eventfd_write(wakeup, 1)

    def _restart(self, member: Member, started: int, now: int) -> None:
        """At once where it has served: connections and datagrams queue meanwhile. Else with pauses."""
        delay = member.restarts.died(started, now)
        if member.served:
            member.restarts.serving()
            delay = 0
        member.served = False
        member.state = "crash_loop" if member.restarts.crash_loop else "backoff"
        if self._current is None:  # the start is about to fail: see `start`
            return
        if delay:
            log.warning("worker %d: %s, next start in %.1f s", member.index, member.state, delay / SECOND)
            self._loop.call_later(delay / SECOND, self._spawn, member)
        else:
            self._spawn(member)

    def _on_message(self, member: Member, message: Message) -> None:
        member.last_beat = self._clock.now()
        match message.get("type"):
            case "hello" if self._stopping:
                pass  # it has been told to stop; what a plan needs is closed
            case "hello":
                member.state = "idle"
                self._bring_in(member, self._current)
                if self._under_way is not None and member.awaited:
                    self._offer(member, self._under_way)
            case "beat":
                member.busy, member.stats = message["busy"], message["stats"]
                member.tier = message["tier"]
                self._compared(message["comparisons"])
            case "applied":
                self._applied(member, message["generation"], message["error"])
            case "explained" | "counted":
                future = member.asked.get(message["number"])
                if future is not None and not future.done():
                    future.set_result(message)
            case "wake" if self._stopping:
                pass  # nothing is started any more
            case "wake":
                self._wake(message["pool"])
            case "ask":
                answering = self._loop.create_task(self._tell(member.channel, message))
                self._answering.add(answering)
                answering.add_done_callback(self._answering.discard)
            case other:
                log.error("worker %d sent an unknown frame: %s", member.index, other)
        self._changed.set()

    async def _tell(self, channel: Channel | None, asked: Message) -> None:
        """Answers a worker's question about a pool, unless it is gone by then."""
        status, text, reply = await self._answer(asked["pool"], asked["method"], asked["request"])
        told = {"type": "told", "number": asked["number"], "status": status, "message": text, "reply": reply}
        if channel is None:
            return
        try:
            channel.send(told)
        except ChannelError as error:
            channel.send({**told, "status": _RESOURCE_EXHAUSTED, "message": f"the answer: {error}", "reply": b""})

    def _applied(self, member: Member, generation: int, error: str) -> None:
        if not error:
            member.generation = generation
            if member.state == "idle":
                member.state = "running"
                member.served = True
                member.restarts.serving()
        elif self._current is not None and self._current.plan.generation == generation and member.process is not None:
            log.error("worker %d does not take the plan the others run: %s", member.index, error)
            member.process.kill()
        if generation == member.sent:
            member.settle(error)

    def _bring_in(self, member: Member, publication: Publication | None) -> None:
        """Gives a worker that came up what the others have; without it, it must not stay."""
        try:
            self._send_log(member)
            for pool, start in self._starts.items():
                if member.channel is not None:
                    member.channel.send({"type": "start", "pool": pool, "start": asdict(start)})
            if publication is not None:
                self._send(member, publication)
                self._commit(member, publication)
        except ChannelError as error:
            log.error("worker %d cannot be given the plan: %s", member.index, error)
            if member.process is not None:
                member.process.kill()

    def _send(self, member: Member, publication: Publication) -> None:
        """Raises ChannelError; what was sent until then a `revert` undoes."""
        if member.channel is None:
            return
        member.sent = publication.plan.generation
        sockets = publication.sockets[member.index]
        new = [(number, fd) for number, fd in sockets.values() if number not in member.known]
        for start in range(0, len(new), MAX_FDS):
            part = new[start : start + MAX_FDS]
            member.channel.send({"type": "sockets", "ids": [n for n, _ in part]}, [fd for _, fd in part])
            member.known.update(n for n, _ in part)
        member.channel.send(
            {
                "type": "plan",
                "generation": publication.plan.generation,
                "plan": publication.wire,
                "sockets": {listener: number for listener, (number, _) in sockets.items()},
                "log_level": publication.log_level,
            }
        )

    def _commit(self, member: Member, publication: Publication) -> None:
        if member.channel is not None:
            member.channel.send({"type": "commit", "generation": publication.plan.generation})
            member.known = {number for number, _ in publication.sockets[member.index].values()}

    def _revert(self, members: Sequence[Member], generation: int) -> None:
        for member in members:
            if member.channel is not None and member.sent == generation:
                member.channel.send({"type": "revert", "generation": generation})
                if self._current is not None:
                    member.sent = member.generation = self._current.plan.generation
                    member.known = {number for number, _ in self._current.sockets[member.index].values()}

    def _outcome(self, member: Member, publication: Publication) -> str | None:
        """What became of a publication: "" where it was taken, None where the worker is not there to take it."""
        if member.answer is not None and member.answer.done():
            return member.answer.result()
        if member.sent != publication.plan.generation:
            return None
        took, hangs = (format_duration(t) for t in (self._settings.apply_timeout, self._settings.hang_timeout))
        text = (
            f"no answer in time: pid {member.process.pid if member.process else 0} has not taken the plan within {took}"
        )
        return f"{text}, as it is overloaded or hangs; one that is not heard of for {hangs} is killed and replaced"

    def _send_log(self, member: Member) -> None:
        fd = self._access_log()
        if member.channel is not None and fd >= 0:
            member.channel.send({"type": "log"}, [fd])


def _death(member: Member) -> str:
    return f"died ({member.last_exit})"
