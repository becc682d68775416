"""One place in a managed pool: a server, its restarts, its drain. States and transitions are the table below."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from lb.clock import Clock
from lb.config.schema.file import HealthConfig, ServeConfig
from lb.config.units import SECOND, format_duration
from lb.control.servers.launcher import Launch, Launcher, Process, ServerProcess
from lb.control.servers.model_server import HOST, LISTENING, READY, Command, Start, give_back, prepare
from lb.control.servers.placement import NOWHERE, Claim, Place, Placement
from lb.control.servers.ports import Ports
from lb.control.servers.watcher import Specification
from lb.control.upgrade.handover import ServerHandover
from lb.control.workers.backoff import Restarts, RestartSettings
from lb.control.workers.fork_server import describe_exit
from lb.errors import StartError
from lb.health.check import CheckFailed
from lb.health.registry import build

log = logging.getLogger("tidegate.supervisor")

PROBE_INTERVAL = SECOND // 10
PROBE_TIMEOUT = 2 * SECOND
WATCH_INTERVAL = 5 * SECOND  # between two looks at whether a server that is ready still answers
# So many looks at least have to be in vain: time alone may have passed while this machine slept.
LEAST_LOOKS = 3
DRAIN_POLL = SECOND // 20
# Workers learn of a drain a moment after it began; in-flight must stay zero for so long to be believed.
DRAIN_QUIET = SECOND // 4
# What a server has after SIGTERM at least, when its requests took all of the drain time.
MIN_TERM_GRACE = 2 * SECOND
LINES = 20  # of a server's output that status shows
SHOWN = 300  # characters of an error in a line of status

# What clients are told of a failure: its kind alone. What a process has written, paths and addresses are for operators.
NOT_STARTED = "its model server could not be started"
NOT_IN_TIME = "its model server was not ready in time"
NEVER_READY = "its model server ended before it was ready"
ENDS_ALWAYS = "its model server ends again and again"


Probe = Literal["grpc", "oip", "tcp"]


class State(StrEnum):
    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    CRASH_LOOP = "crash_loop"
    GONE = "gone"


class Event(StrEnum):
    SERVING = "serving"  # it answers SERVING
    OVERDUE = "overdue"  # it did not within start_timeout
    RETIRED = "retired"  # it is not wanted any more
    DRAINED = "drained"  # nothing is in flight there, or the drain time is over
    FAILED = "failed"  # the process is gone, wanted or not; the replica is
    FAILED_OFTEN = "failed_often"  # the same, for too many times
    ENDED = "ended"  # the process is gone, and so may the replica be
    DUE = "due"  # the wait before the next start is over, and there is a place
    CROWDED = "crowded"  # that wait is over, and there is no place


TABLE: dict[tuple[State, Event], State] = {
    (State.STARTING, Event.SERVING): State.READY,
    (State.STARTING, Event.OVERDUE): State.STOPPING,
    (State.STARTING, Event.RETIRED): State.STOPPING,
    (State.STARTING, Event.FAILED): State.BACKOFF,
    (State.STARTING, Event.FAILED_OFTEN): State.CRASH_LOOP,
    (State.READY, Event.RETIRED): State.DRAINING,
    (State.READY, Event.FAILED): State.BACKOFF,
    (State.READY, Event.FAILED_OFTEN): State.CRASH_LOOP,
    (State.DRAINING, Event.DRAINED): State.STOPPING,
    (State.DRAINING, Event.ENDED): State.GONE,
    (State.STOPPING, Event.FAILED): State.BACKOFF,
    (State.STOPPING, Event.FAILED_OFTEN): State.CRASH_LOOP,
    (State.STOPPING, Event.ENDED): State.GONE,
    (State.WAITING, Event.DUE): State.STARTING,
    (State.WAITING, Event.RETIRED): State.GONE,
    (State.BACKOFF, Event.DUE): State.STARTING,
    (State.BACKOFF, Event.CROWDED): State.WAITING,
    (State.BACKOFF, Event.RETIRED): State.GONE,
    (State.CRASH_LOOP, Event.DUE): State.STARTING,
    (State.CRASH_LOOP, Event.CROWDED): State.WAITING,
    (State.CRASH_LOOP, Event.RETIRED): State.GONE,
}


class Replica(Struct, frozen=True):
    """A replica as status shows it; `address` and `pid` are None without a process, `started_at` is monotonic ns,
    `output` has the last lines of the process that failed last. `gpus` and `cores` are those that it has."""

    index: int
    pid: int | None
    address: str | None
    state: str
    restarts: int
    started_at: int | None
    last_error: str
    output: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()


class Prospect(Struct, frozen=True):
    """What can be expected of a replica that is wanted. Times are monotonic ns. `trouble` is what clients are told of
    its last failure, or of what it waits for; `detail` is for operators."""

    state: State
    begun_at: int = 0  # when the process that starts was started
    due_at: int = 0  # when the pause before the next start is over
    failed_to_start: bool = False  # the last process ended, or was stopped, before it was ready
    soon: bool = False  # what it waits for is about to be given back
    trouble: str = ""
    detail: str = ""


class Machine(Struct, frozen=True):
    """What the servers of all pools share. `warm` starts Tidegate's own model servers."""

    launcher: Launcher
    warm: Launcher
    placement: Placement
    ports: Ports


class Surroundings(Struct, frozen=True):
    """What a replica needs of its supervisor. The callbacks are called in the loop, with the new state in place."""

    pool: str
    runtime_dir: Path
    clock: Clock
    machine: Machine
    probe: Probe
    command: Command
    launch: Launch | None  # elsewhere; None: on this machine
    inflight: Callable[[str], int]
    exited: Callable[[str], None]  # the process behind an address that had been ready is gone
    moved: Callable[[ManagedReplica, State], None]  # the state was another before, or what it waits for is


class ManagedReplica:
    """Keeps one server running until `retire`."""

    def __init__(self, index: int, serve: ServeConfig, around: Surroundings) -> None:
        self.index = index
        self.name = f"{around.pool}/{index}"
        self.state = State.BACKOFF
        self.wanted = True
        self.serve = serve
        self.address: str | None = None
        self._around = around
        self._restarts = Restarts(restart_settings(serve))
        # The model server says that it is ready, and then has models; others by what their protocol has for it.
        health = serve.ready.check if serve.ready is not None else HealthConfig(type=around.probe)
        self._check = build(health)
        self._patience = serve.ready.timeout if serve.ready is not None else PROBE_TIMEOUT
        self._start: Start | None = None
        self._claim: Claim | None = None
        self._process: Process | None = None
        self._phase: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()
        self._told = asyncio.Event()  # the model server says that it is ready
        self._delay = 0  # of the pause before the next start
        self._due_at = 0  # when that is over, monotonic ns
        self._failed_to_start = False  # the last process ended, or was stopped, before it was ready
        self._stop_by = 0  # when a process that is to end is killed
        self._started_at: int | None = None
        self._ready_at: int | None = None
        self._lines: deque[str] = deque(maxlen=LINES)
        self._last_output: tuple[str, ...] = ()
        self._last_error = ""
        self._trouble = ""  # the same for clients
        self._hung = ""  # why its process was killed

    def __repr__(self) -> str:
        return f"<ManagedReplica {self.name} {self.state} pid={self.pid} address={self.address}>"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def start_time(self) -> int | None:
        """ns from the start of its process until it was ready; None before."""
        return None if self._ready_at is None or self._started_at is None else self._ready_at - self._started_at

    def describe(self) -> Replica:
        place = (self._claim.place if self._claim is not None else None) or NOWHERE
        waits = self._claim.why if self._claim is not None and self.state is State.WAITING else ""
        return Replica(
            self.index,
            self.pid,
            self.address,
            self.state,
            self._restarts.count,
            self._started_at,
            "; ".join(filter(None, (waits, self._last_error))),
            self._last_output,
            place.gpus,
            place.cores,
        )

    def prospect(self) -> Prospect:
        """What can be expected of it."""
        if self.state is State.WAITING and self._claim is not None:
            why = f"its model server waits for free {self._claim.wants}"
            return Prospect(self.state, soon=self._claim.soon, trouble=why, detail=f"it {self._claim.why}")
        begun = self._started_at if self._started_at is not None and self.pid is not None else self._around.clock.now()
        detail = f"none could be started ({self._last_error[:SHOWN]})"
        return Prospect(self.state, begun, self._due_at, self._failed_to_start, trouble=self._trouble, detail=detail)

    def start(self) -> None:
        """Begin; call it once, in the running loop."""
        self._begin()

    def adopt(self, handed: ServerHandover) -> None:
        """Goes on with a server that is ready since before this program; instead of `start`."""
        self.state, self.address = State.READY, handed.address
        self._started_at, self._ready_at, self._restarts.count = handed.started_at, handed.ready_at, handed.restarts
        self._start = Start(Specification([], {}, [], []), handed.address, dict(handed.ports))
        if handed.gpus or handed.cores:
            place = Place(handed.gpus, handed.share, handed.cores)
            self._claim = self._around.machine.placement.keep(place, self.serve.gpus or 0, self.serve.cores or 0)
        for port in handed.ports.values():
            self._around.machine.ports.keep(port)
        self._process = ServerProcess.adopted(
            handed.pid, socket.socket(fileno=handed.socket), handed.output, self._heard, self._exited
        )
        log.info("%s: goes on, pid %d on %s", self.name, handed.pid, handed.address)
        self._phase = self._enter()

    def hand_over(self) -> ServerHandover | None:
        """For another program in this process; None of a server that is not ready, and ends with this program. Raises
        StartError where the server can neither go on nor end now."""
        if self.state is State.DRAINING:
            raise StartError(f"{self.name} is draining")
        if self.state is not State.READY or self._process is None:
            return None
        if not isinstance(self._process, ServerProcess):
            raise StartError(f"{self.name} runs elsewhere, and cannot be handed over")
        if self.address is None or self.pid is None or self._start is None:
            raise StartError(f"{self.name} has no process")
        watcher, output = self._process.hand_over()
        place = (self._claim.place if self._claim is not None else None) or NOWHERE
        return ServerHandover(
            self._around.pool, self.index, self.address, self.pid, watcher, output, self._started_at or 0,
            self._ready_at or 0, self._restarts.count, self.serve.model_dump_json(), dict(self._start.ports),
            place.gpus, place.share, place.cores,
        )  # fmt: skip

    def retire(self) -> None:
        """Drain and stop; `gone` is the last state. Calling it again changes nothing."""
        if self.wanted and self.state is not State.GONE:
            self.wanted = False
            self._stop_by = self._around.clock.now() + max(MIN_TERM_GRACE, self.serve.drain_timeout)
            if self.state is not State.STOPPING:  # there it was overdue, and is not started again
                self._step(Event.RETIRED)

    def kill(self) -> None:
        """End the process at once, without a drain."""
        if self._process:
            self._process.signal(signal.SIGKILL)

    def _begin(self) -> None:
        """Starts the server where there is a place for it, else waits for one."""
        serve = self.serve
        if serve.gpus is None and serve.cores is None:
            self._step(Event.DUE)
            return
        self._claim = self._around.machine.placement.claim(
            serve.gpus or 0,
            serve.cores or 0,
            lambda: self._step(Event.DUE),
            lambda: self._around.moved(self, self.state),
        )
        if self._claim.place is None:
            log.warning("%s: %s", self.name, self._claim.why)
            self._step(Event.CROWDED)
        else:
            self._step(Event.DUE)

    def _leave(self) -> None:
        """Gives back what a server had that has ended, or that was to come."""
        if self._claim is not None:
            self._claim.release()
            self._claim = None
        if self._start is not None:
            give_back(self._around.machine.ports, self._start.ports)
            self._start = None

    def _step(self, event: Event, exited: str | None = None) -> None:
        before, self.state = self.state, TABLE[self.state, event]
        log.debug("%s: %s: %s, now %s", self.name, before, event, self.state)
        if self.state is State.GONE:
            self._leave()
        if self._phase is not None and self._phase is not asyncio.current_task():
            self._phase.cancel()
        self._phase = self._enter()
        if exited is not None:
            self._around.exited(exited)
        if before is not self.state:
            self._around.moved(self, before)
        if self.state in (State.DRAINING, State.STOPPING) and self._claim is not None:
            self._claim.end_soon()

    def _enter(self) -> asyncio.Task[None] | None:
        """Start what is done in the new state; it ends with an event of its own or is cancelled by another one."""
        phases: dict[State, Callable[[], Coroutine[Any, Any, None]]] = {
            State.STARTING: self._run_until_serving,
            State.READY: self._watch,
            State.DRAINING: self._drain,
            State.STOPPING: self._stop,
            State.BACKOFF: self._pause,
            State.CRASH_LOOP: self._pause,
        }
        phase = phases.get(self.state)
        if phase is None:
            return None
        task = asyncio.create_task(phase(), name=f"{self.name} {self.state}")
        task.add_done_callback(_complain)
        return task

    async def _run_until_serving(self) -> None:
        reason = "it does not listen"
        try:
            self._spawn()
            async with asyncio.timeout(self.serve.start_timeout / SECOND):
                await self._listening.wait()
                # The model server says that it is ready; others are asked.
                while not self._told.is_set() and (reason := await self._probe()):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(PROBE_INTERVAL / SECOND):
                            await self._told.wait()
        except StartError as e:
            self._fail(str(e), NOT_STARTED, None)
        except TimeoutError:
            self._trouble = NOT_IN_TIME
            self._last_error = f"not ready within {format_duration(self.serve.start_timeout)}: {reason}"
            log.error("%s: %s; it is stopped", self.name, self._last_error)
            self._stop_by = self._around.clock.now() + MIN_TERM_GRACE
            self._step(Event.OVERDUE)
        else:
            self._ready_at = self._around.clock.now()
            took = (self._ready_at - (self._started_at or 0)) / SECOND
            log.info("%s: ready on %s after %.1f s", self.name, self.address, took)
            self._step(Event.SERVING)

    def _spawn(self) -> None:
        around = self._around
        self._ready_at, self._started_at, self._hung = None, around.clock.now(), ""
        self._lines.clear()
        self._listening.clear()
        self._told.clear()
        place = (self._claim.place if self._claim is not None else None) or NOWHERE
        start = prepare(
            self.serve, around.pool, self.index, around.runtime_dir, around.machine.ports, place, around.command
        )
        self._start, self.address = start, start.address
        if self.serve.command is not None:
            self._listening.set()  # nobody says so
        # Elsewhere, or here as a copy of a process that has loaded all but the models where there is such a one.
        here = around.machine.warm if start.specification.warm else around.machine.launcher
        launch = around.launch or here.start
        self._process = launch(start.specification, self._launched, self._heard, self._exited)

    def _launched(self, pid: int) -> None:
        log.info("%s: started, pid %d", self.name, pid)

    async def _probe(self) -> str:
        """Why it is not ready, or ""."""
        if self.address is None or self._start is None:
            return "it did not say where it listens"
        ready = self.serve.ready
        port = self._start.ports[ready.port] if ready is not None and ready.port is not None else None
        address = self.address if port is None else f"{HOST}:{port}"
        try:
            async with asyncio.timeout(self._patience / SECOND):
                await self._check.run(address)
        except CheckFailed as e:
            return str(e)
        except TimeoutError:
            return f"no answer to a health check within {format_duration(self._patience)}"
        return ""

    async def _watch(self) -> None:
        """Kills it once it has not answered for `hang_timeout`; the exit is a failure like others."""
        clock, limit = self._around.clock, self.serve.hang_timeout
        answered, silent = clock.now(), 0
        while limit and not (silent >= LEAST_LOOKS and clock.now() - answered >= limit):
            await asyncio.sleep(min(WATCH_INTERVAL, limit // (2 * LEAST_LOOKS)) / SECOND)
            answered, silent = (answered, silent + 1) if await self._probe() else (clock.now(), 0)
        if limit:
            self._hung = f"it has not answered for {format_duration(limit)} that it serves, and was killed"
            self.kill()

    def _heard(self, line: str) -> None:
        if line.startswith(LISTENING) and not self._listening.is_set():
            self.address = line.removeprefix(LISTENING)
            self._listening.set()
        elif line == READY and self.serve.command is None:
            self._told.set()
        else:
            self._lines.append(line)
        log.info("%s: %s", self.name, line)

    def _exited(self, code: int | None, problem: str) -> None:
        self._leave()
        if self.address is not None and self.address.startswith("unix:"):
            Path(self.address.removeprefix("unix:")).unlink(missing_ok=True)
        self._process = None
        exited = self.address if self._ready_at is not None else None
        if not self.wanted:
            log.info("%s: stopped (%s)", self.name, describe_exit(code))
            self.address = None
            self._step(Event.ENDED, exited)
            return
        if self.state is State.STOPPING:
            # It was stopped for a reason that says more than its end.
            self._fail(self._last_error, self._trouble, exited)
        elif self._hung:
            self._fail(self._hung, ENDS_ALWAYS, exited)
        else:
            last = self._lines[-1] if self._lines else ""
            error = problem or ": ".join(filter(None, (describe_exit(code), last)))
            if code == 0 and not exited and self.serve.command is not None:
                error += "; it ended before it was ready, and has to stay in the foreground"
            kind = NOT_STARTED if problem else ENDS_ALWAYS if exited else NEVER_READY
            self._fail(error, kind, exited)

    def _fail(self, error: str, trouble: str, exited: str | None) -> None:
        """There is no process although one is wanted: try again later."""
        now = self._around.clock.now()
        self._leave()
        self.address, self._last_error, self._last_output = None, error, tuple(self._lines)
        self._trouble = trouble
        self._failed_to_start = self._ready_at is None
        # Time spent on starting does not make a run stable.
        self._delay = self._restarts.died(now if self._ready_at is None else self._ready_at, now)
        self._due_at = now + self._delay
        often = self._restarts.crash_loop
        log.log(
            logging.ERROR if often else logging.WARNING,
            "%s: %s; %stried again in %s",
            self.name,
            error,
            "it fails all the time; " if often else "",
            format_duration(self._delay),
        )
        self._step(Event.FAILED_OFTEN if often else Event.FAILED, exited)

    async def _pause(self) -> None:
        await asyncio.sleep(self._delay / SECOND)
        self._begin()

    async def _drain(self) -> None:
        clock, address = self._around.clock, self.address or ""
        begun = idle_since = clock.now()
        deadline = begun + self.serve.drain_timeout
        while (now := clock.now()) < deadline:
            if self._around.inflight(address):
                idle_since = now
            elif now - idle_since >= DRAIN_QUIET:
                break
            await asyncio.sleep(DRAIN_POLL / SECOND)
        else:
            log.warning("%s: requests are still in flight after %s", self.name, format_duration(deadline - begun))
        self._step(Event.DRAINED)

    async def _stop(self) -> None:
        if self._process is None:  # retired before the process was made
            self._step(Event.ENDED)
            return
        self._process.signal(signal.SIGTERM)
        now = self._around.clock.now()
        await asyncio.sleep(max(MIN_TERM_GRACE, self._stop_by - now) / SECOND)
        log.error("%s: does not stop, killed", self.name)
        self._process.signal(signal.SIGKILL)


def restart_settings(serve: ServeConfig) -> RestartSettings:
    """The restart policy of a `serve` section; a run is stable once it outlasts the window and the longest wait."""
    return RestartSettings(
        initial=serve.backoff.initial,
        max=serve.backoff.max,
        stable=max(serve.crash_loop.within, serve.backoff.max),
        crash_loop_restarts=serve.crash_loop.restarts + 1,
        crash_loop_within=serve.crash_loop.within,
        immediate=False,
    )


def _complain(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("%s ended in an unforeseen way", task.get_name(), exc_info=task.exception())
