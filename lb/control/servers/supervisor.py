"""The model servers of one managed pool: as many as are wanted, replaced when they end, drained before they stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from lb.clock import Clock
from lb.config.plan.plan import EndpointSpec
from lb.config.schema.file import ServeConfig
from lb.control.servers.model_server import Command, new_listen_address, serve_command
from lb.control.servers.replica import ManagedReplica, Replica, State, Surroundings
from lb.errors import StartError
from lb.scaling.cpu import CpuMeter

log = logging.getLogger("tidegate.supervisor")

# Whom to give up first: what serves least.
GIVE_UP_ORDER = (State.CRASH_LOOP, State.BACKOFF, State.STOPPING, State.STARTING, State.READY)


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


class Supervisor:
    """Runs the model servers of `pool`. All methods belong to the loop that runs `start`.

    `on_change()` is called when `endpoints()` has changed. `on_exit(address)` is called the moment the process behind
    an endpoint is seen to be gone, before `on_change`, whether it crashed or was stopped. `inflight(address)` counts
    the requests that the data path has there now.
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
        command: Command = serve_command,
    ) -> None:
        self.pool = pool
        self._serve = serve
        self._on_change = on_change
        self._on_exit = on_exit
        self._clock = clock
        self._around = Surroundings(pool, runtime_dir, clock, command, inflight, self._exited, self._moved)
        self._replicas: dict[int, ManagedReplica] = {}
        self._number = serve.min
        self._restarts_before = 0  # of replicas that are gone
        self._running = False
        self._empty = asyncio.Event()
        self._cpu = CpuMeter()
        self.start_time: int | None = None  # ns that the last start took until it was ready

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
        new_listen_address(self._serve, self.pool, 999, directory)
        self._running = True
        self._carry_out()

    def scale_to(self, n: int) -> None:
        """Want `n` replicas from now on."""
        if n < 0:
            raise ValueError(f"a pool cannot have {n} replicas")
        self._number = n
        self._carry_out()

    @property
    def restarts(self) -> int:
        """How many there were, also of replicas that are gone: it never falls."""
        return self._restarts_before + sum(replica.restarts for replica in self.replicas())

    def replicas(self) -> tuple[Replica, ...]:
        """All of them by index, those that drain or stop included."""
        return tuple(self._replicas[index].describe() for index in sorted(self._replicas))

    def endpoints(self) -> tuple[EndpointSpec, ...]:
        """The replicas that are ready."""
        return tuple(
            EndpointSpec(replica.address)
            for _, replica in sorted(self._replicas.items())
            if replica.state is State.READY and replica.address is not None
        )

    def cpu(self) -> dict[str, float]:
        """CPU use of ready replicas by address, in percent of one core, over the last half second or more."""
        ready = [r for r in self._replicas.values() if r.state is State.READY]
        pids = {r.address: r.pid for r in ready if r.address is not None and r.pid is not None}
        return self._cpu.read(pids, self._clock.now())

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
        wanted = [(r.index, r.state) for r in self._replicas.values() if r.wanted]
        leaving = [r.index for r in self._replicas.values() if not r.wanted]
        change = plan_change(wanted, leaving, self._number)
        for index in change.start:
            replica = self._replicas[index] = ManagedReplica(index, self._serve, self._around)
            replica.start()
        for index in change.retire:
            if index in self._replicas:  # a listener may have scaled meanwhile
                self._replicas[index].retire()

    def _exited(self, address: str) -> None:
        try:
            self._on_exit(address)
        except Exception:
            # The listener's fault must not keep the replica from being restarted.
            log.exception("%s: the exit of %s was not handled", self.pool, address)

    def _moved(self, replica: ManagedReplica, before: State) -> None:
        if before is State.STARTING and replica.state is State.READY:
            self.start_time = replica.start_time
        if replica.state is State.GONE:
            self._restarts_before += replica.describe().restarts
            del self._replicas[replica.index]
            if not self._replicas:
                self._empty.set()
        if State.READY in (before, replica.state):
            try:
                self._on_change()
            except Exception:
                log.exception("%s: the change of its endpoints was not handled", self.pool)
