"""The servers of one managed pool: as many as are wanted, replaced when they end, drained before they stop; and those
that stand by."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence, Set
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from lb.clock import Clock
from lb.config.plan.plan import EndpointSpec
from lb.config.schema.file import ServeConfig
from lb.control.servers.coming import Coming, coming
from lb.control.servers.launcher import Launch
from lb.control.servers.model_server import Command, new_socket, same_process, serve_command
from lb.control.servers.replica import Machine, ManagedReplica, Probe, Replica, State, Surroundings
from lb.control.upgrade.handover import ServerHandover
from lb.errors import StartError
from lb.scaling.cpu import CpuMeter, families, resident

log = logging.getLogger("tidegate.supervisor")

STARTS = 8  # whose times are remembered

# Whom to give up first: what serves least.
GIVE_UP_ORDER = (State.CRASH_LOOP, State.WAITING, State.BACKOFF, State.STOPPING, State.STARTING, State.READY)
STANDBY = "standby"  # how status shows a replica that is ready and takes no requests


class Change(Struct, frozen=True):
    """Indices to start and to retire."""

    start: tuple[int, ...] = ()
    retire: tuple[int, ...] = ()


def plan_change(wanted: Sequence[tuple[int, State]], leaving: Sequence[int], number: int) -> Change:
    """How to get from the replicas that are wanted now to `number`; `leaving` are those that still hold an index.

    New replicas take the lowest free indices; given up are those that serve least, of equals the highest index.
    """
    if len(wanted) < number:
        taken = {index for index, _ in wanted} | set(leaving)
        free = (i for i in range(number + len(taken)) if i not in taken)
        return Change(start=tuple(next(free) for _ in range(number - len(wanted))))
    order = sorted(wanted, key=lambda item: (GIVE_UP_ORDER.index(item[1]), -item[0]))
    return Change(retire=tuple(index for index, _ in order[: len(wanted) - number]))


class Member(Struct, frozen=True):
    """A replica that is wanted, as `plan_roll` sees it; `fresh` ones have the settings of now."""

    index: int
    state: State
    fresh: bool


def plan_roll(wanted: Sequence[Member], leaving: Sequence[int], number: int) -> Change:
    """The next step from replicas with older settings to `number` fresh ones, one at a time.

    There is one more than `number` at most, those included that are leaving, and one less is ready at least: a fresh
    one starts beside the others, and when it is ready one with older settings goes. Where there is no place for the
    fresh one, one of two or more that are ready goes first. While the fresh one does not become ready, nothing else
    changes.
    """
    members = [(m.index, m.state) for m in wanted]
    stale = [(m.index, m.state) for m in wanted if not m.fresh]
    coming = [m for m in wanted if m.fresh and m.state is not State.READY]
    ready = sum(m.state is State.READY for m in wanted)
    if not stale or len(wanted) < number:
        return plan_change(members, leaving, number)
    surplus = len(wanted) - number
    crowded = any(m.state is State.WAITING for m in coming) and not leaving and ready > 1
    if surplus > 1 or (surplus == 1 and (crowded or not coming)):
        return Change(retire=plan_change(stale, (), max(0, len(stale) - max(1, surplus - 1))).retire)
    if surplus == 0 and not coming and not leaving:
        return plan_change(members, leaving, number + 1)
    return Change()


def choose_serving(wanted: Sequence[tuple[int, State]], serving: Set[int], number: int) -> frozenset[int]:
    """Which `number` of the replicas that are wanted serve, where `serving` did so far; the others stand by.

    Replicas that are ready come first, of equals those that serve already, then those with the lowest index: one that
    stands by takes over from one that fails, and none is taken out of the balance for another that is no better.
    """
    order = sorted(wanted, key=lambda item: (item[1] is not State.READY, item[0] not in serving, item[0]))
    return frozenset(index for index, _ in order[:number])


class Supervisor:
    """Runs the servers of `pool`. All methods belong to the loop that runs `start`. `machine` is what pools share;
    `probe` is the type of the check that finds out whether a server is ready, where `serve` does not say;
    `launch` starts a process (default: on this machine).

    `on_change()` is called when `endpoints()` has changed. `on_exit(address)` is called the moment the process behind
    an endpoint is seen to be gone, before `on_change`, whether it crashed or was stopped. `inflight(address)` counts
    the requests that the data path has there now. `on_move()` is called when a replica has begun to start, is ready,
    has failed or is gone, and when one that waits for a place waits for another reason.
    """

    def __init__(
        self,
        pool: str,
        serve: ServeConfig,
        *,
        runtime_dir: Path,
        on_change: Callable[[], None],
        on_exit: Callable[[str], None],
        inflight: Callable[[str], int],
        clock: Clock,
        machine: Machine,
        probe: Probe = "grpc",
        command: Command = serve_command,
        on_move: Callable[[], None] = lambda: None,
        launch: Launch | None = None,
    ) -> None:
        self.pool = pool
        self._on_move = on_move
        self._serve = serve
        self._on_change = on_change
        self._on_exit = on_exit
        self._clock = clock
        self._around = Surroundings(
            pool,
            runtime_dir,
            clock,
            machine,
            probe,
            command,
            launch,
            inflight,
            self._exited,
            self._moved,
        )
        self._replicas: dict[int, ManagedReplica] = {}
        self._number = serve.min
        self._standby = serve.standby
        self._serving: frozenset[int] = frozenset()  # indices of replicas that do not stand by
        self._told: tuple[EndpointSpec, ...] = ()  # endpoints, as of the last change
        self._restarts_before = 0  # of replicas that are gone
        self._running = False
        self._empty = asyncio.Event()
        self._cpu = CpuMeter(families=serve.command is not None)  # Triton's stubs, MLServer's workers
        self.start_time: int | None = None  # ns that the last start took until it was ready
        self._starts: deque[int] = deque(maxlen=STARTS)  # ns from start to ready

    def adopt(self, handed: Sequence[ServerHandover], number: int) -> None:
        """Goes on with servers of the program before, before `start`; `number` are wanted. Those that were started by
        other settings are replaced."""
        self._number = number
        for each in handed:
            serve = ServeConfig.model_validate_json(each.serve)
            settings = self._serve if same_process(serve, self._serve) else serve
            replica = self._replicas[each.index] = ManagedReplica(each.index, settings, self._around)
            replica.adopt(each)
        wanted = [(replica.index, replica.state) for replica in self._replicas.values()]
        self._serving = choose_serving(wanted, self._serving, number)
        self._told = self.endpoints()

    def hand_over(self) -> list[ServerHandover]:
        """The servers that go on under another program in this process. Raises StartError."""
        found = (replica.hand_over() for replica in self._replicas.values() if replica.wanted)
        leaving = [replica.name for replica in self._replicas.values() if not replica.wanted]
        if leaving:
            raise StartError(f"{', '.join(leaving)}: it is about to stop")
        return [each for each in found if each is not None]

    def __repr__(self) -> str:
        return f"<Supervisor {self.pool} wanted={self._number} {list(self._replicas.values())}>"

    @property
    def wanted(self) -> int:
        """The number of replicas asked for last; `serve.min` at the beginning."""
        return self._number

    async def start(self) -> None:
        """Begin to start replicas; they become ready later. Raises StartError when the runtime folder is of no use."""
        directory = self._around.runtime_dir
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as e:
            raise StartError(f"cannot make {directory}: {e.strerror}") from e
        new_socket(self.pool, 999, directory)
        self._running = True
        self._carry_out()

    def scale_to(self, n: int, standby: int | None = None) -> None:
        """Want `n` replicas from now on, and `standby` more that stand by; None: as many as before."""
        if n < 0:
            raise ValueError(f"a pool cannot have {n} replicas")
        self._number = n
        self._standby = self._standby if standby is None else standby
        self._carry_out()

    @property
    def restarts(self) -> int:
        """How many there were, also of replicas that are gone: it never falls."""
        return self._restarts_before + sum(replica.restarts for replica in self.replicas())

    def next_ready(self) -> Coming:
        """How the start of the first replica that requests could go to goes on."""
        wanted = [replica.prospect() for replica in self._replicas.values() if replica.wanted]
        return coming(wanted, takes=min(self._starts, default=0))

    def replicas(self) -> tuple[Replica, ...]:
        """All of them by index, those that drain or stop included."""
        found = (self._replicas[index].describe() for index in sorted(self._replicas))
        return tuple(
            replace(r, state=STANDBY) if r.state == State.READY and r.index not in self._serving else r for r in found
        )

    def endpoints(self) -> tuple[EndpointSpec, ...]:
        """The replicas that are ready and do not stand by."""
        return tuple(EndpointSpec(replica.address) for replica in self._ready() if replica.address is not None)

    def cpu(self) -> dict[str, float]:
        """CPU use of ready replicas by address, in percent of one core, over the last half second or more; of a
        `command` with what it has started."""
        return self._cpu.read(self.pids(), self._clock.now())

    def pids(self) -> dict[str, int]:
        """The processes of replicas that serve by address."""
        return {r.address: r.pid for r in self._ready() if r.address is not None and r.pid is not None}

    def memory(self) -> dict[str, float]:
        """Resident memory of replicas that serve by address, in bytes; of a `command` with what it has started."""
        pids = self.pids()
        members = families(pids.values()) if self._serve.command is not None else {pid: [pid] for pid in pids.values()}
        found = {address: resident(members[pid]) for address, pid in pids.items()}
        return {address: float(size) for address, size in found.items() if size is not None}

    def cpu_percent(self) -> float | None:
        """The mean of `cpu()`, or None before there are two readings of any replica."""
        use = self.cpu()
        return sum(use.values()) / len(use) if use else None

    async def stop(self) -> None:
        """Drain and end all replicas; no process and no socket is left when it returns. It cannot be started again."""
        self._running = False
        for replica in list(self._replicas.values()):
            replica.retire()
        while self._replicas:
            self._empty.clear()
            await self._empty.wait()

    def kill(self) -> None:
        """End all processes at once. After `stop` has begun, this ends the drain; else they are restarted."""
        for replica in list(self._replicas.values()):
            replica.kill()

    def _carry_out(self) -> None:
        if not self._running:
            return
        wanted = self._members()
        leaving = [r.index for r in self._replicas.values() if not r.wanted]
        change = plan_roll(wanted, leaving, self._number + self._standby)
        for index in change.start:
            replica = self._replicas[index] = ManagedReplica(index, self._serve, self._around)
            replica.start()
        for index in change.retire:
            if index in self._replicas:  # a listener may have scaled meanwhile
                self._replicas[index].retire()
        self._choose()

    @property
    def rolling(self) -> bool:
        """Whether replicas are wanted that have other settings than those of now."""
        return not all(member.fresh for member in self._members())

    def roll_to(self, serve: ServeConfig) -> None:
        """Replaces the replicas by ones with these settings, one at a time."""
        self._serve = serve
        self._carry_out()

    def _members(self) -> list[Member]:
        return [
            Member(r.index, r.state, same_process(r.serve, self._serve)) for r in self._replicas.values() if r.wanted
        ]

    def _ready(self) -> list[ManagedReplica]:
        """Those that are ready and do not stand by, by index."""
        found = (self._replicas[index] for index in sorted(self._serving & self._replicas.keys()))
        return [replica for replica in found if replica.state is State.READY]

    def _choose(self) -> None:
        """Who serves and who stands by, as things are now; tells of endpoints that are others than before."""
        wanted = [(r.index, r.state) for r in self._replicas.values() if r.wanted]
        self._serving = choose_serving(wanted, self._serving, self._number)
        found = self.endpoints()
        if found == self._told:
            return
        self._told = found
        try:
            self._on_change()
        except Exception:
            log.exception("%s: the change of its endpoints was not handled", self.pool)

    def _exited(self, address: str) -> None:
        try:
            self._on_exit(address)
        except Exception:
            # The listener's fault must not keep the replica from being restarted.
            log.exception("%s: the exit of %s was not handled", self.pool, address)

    def _moved(self, replica: ManagedReplica, before: State) -> None:
        if before is State.STARTING and replica.state is State.READY:
            self.start_time = replica.start_time
            self._starts.append(replica.start_time or 0)
        if replica.state is State.GONE:
            self._restarts_before += replica.describe().restarts
            del self._replicas[replica.index]
            if not self._replicas:
                self._empty.set()
        if self.rolling:
            self._carry_out()
        self._tell(self._on_move)
        self._choose()

    def _tell(self, listener: Callable[[], None]) -> None:
        try:
            listener()
        except Exception:
            log.exception("%s: the change of its replicas was not handled", self.pool)
