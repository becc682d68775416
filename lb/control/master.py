"""The master: owns configuration, listening sockets and the shared segment, and drives the workers with them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from msgspec.structs import replace

import lb
from lb.cache.disk.keeper import Keeper
from lb.cache.store import ResultCache
from lb.clock import Clock, MonotonicClock
from lb.config.address import places
from lb.config.admin import load_admin
from lb.config.checks.descriptors import room, shortage
from lb.config.memory import FileMemory
from lb.config.pause import collector_paused
from lb.config.plan.compile import worker_count
from lb.config.plan.plan import EndpointSpec, Plan, PoolPlan
from lb.config.problems import read
from lb.config.schema.file import CacheConfig, Config, ShutdownConfig
from lb.config.units import SECOND
from lb.control import kept_tables, signals
from lb.control.admin import readings, status
from lb.control.cache import kept, snapshot
from lb.control.cache.cdns import Cdns
from lb.control.cache.model_watch import ModelWatch, WatchedPool
from lb.control.cache.operations import CacheOperations
from lb.control.cache.shared_tier import SharedTier
from lb.control.canary.keeper import Canaries
from lb.control.certificate_watch import CertificateWatch
from lb.control.changes import Settings
from lb.control.comparisons import Comparisons
from lb.control.configuration import load_configuration
from lb.control.endpoints.asking import Asked
from lb.control.endpoints.discovered import DiscoveredPools
from lb.control.endpoints.inference_counts import InferenceCounts
from lb.control.endpoints.lookup import find_endpoint, find_pool
from lb.control.endpoints.models import ModelReadiness
from lb.control.endpoints.operated import EndpointUpdate
from lb.control.endpoints.pool_calls import PoolCalls
from lb.control.endpoints.server_calls import Rules, ServerCalls
from lb.control.endpoints.steering import Steering
from lb.control.endpoints.targets import answered_well
from lb.control.engines.pools import EnginePools
from lb.control.engines.scaled import EngineContext
from lb.control.jobs.routes import with_jobs
from lb.control.jobs.supervisor import JobsSupervisor
from lb.control.logs import AccessLog, set_level
from lb.control.options import MasterOptions
from lb.control.parts import Parts
from lb.control.preflight import check_model_servers
from lb.control.publisher import Publisher
from lb.control.quotas.keeper import QuotaKeeper
from lb.control.registry import ADMIN, DOWN, ENABLED, MAINTENANCE, UP, Registry
from lb.control.reload import ReloadResult, decide, sets_wanted, short_of_room
from lb.control.running import between
from lb.control.servers.launcher import Launcher
from lb.control.servers.managed import ManagedPools
from lb.control.servers.model_server import WARM
from lb.control.servers.placement import Placement
from lb.control.servers.pool import ModelServers, ServerContext
from lb.control.servers.ports import Ports
from lb.control.servers.replica import Machine
from lb.control.servers.runtime import runtime_directory
from lb.control.servers.scaling_memory import state_directory
from lb.control.sockets import SocketTable
from lb.control.sources import check_sources
from lb.control.stored_sockets import StoredSockets
from lb.control.table_peers import TablePeers
from lb.control.tables import TableKeeper, stick_sets
from lb.control.tickets import TicketRing
from lb.control.upgrade.handover import (
    ChangedSetting,
    Handover,
    OldWorker,
    Operated,
    OperatedLimit,
    Said,
    ServerHandover,
    become,
    this_program,
)
from lb.control.upgrade.upgrader import ANSWER, START, Outcome, Succession, check_room, try_installed
from lb.control.watch.watch import Watch
from lb.control.workers.fleet import Fleet
from lb.errors import ConfigError, StartError, TidegateError
from lb.health.agents import AgentMonitor
from lb.health.check import Models
from lb.health.checks.tls import check_tls
from lb.health.load_reports import LoadReportMonitor
from lb.health.monitor import HealthMonitor, Target
from lb.health.transitions import Change, TransitionLog
from lb.shared.segment import Segment
from lb.tasks import end_tasks

log = logging.getLogger("tidegate.master")

ENDPOINT_CAPACITY = 4096
SERIES_CAPACITY = 32_768
_TICK = 1.0  # seconds
_TOLD = 0.5  # seconds between what workers of the program before hear
_MOST_READY = 100_000  # models of endpoints that are known to have been ready
_HEARD = 0.01  # seconds in which the loop hears of the signals that have come
_SOCKETS = 8  # of a listener, in the line that says what is served
_CERTIFICATES = 1.0  # seconds between two looks at the files of certificates


_CHECKS = (check_model_servers, check_sources)


def _sockets(config: Config, workers: int) -> tuple[dict[str, str], dict[str, int]]:
    """The binds of all listeners by place, and the number of sockets of those that take datagrams."""
    binds: dict[str, str] = {}
    datagrams: dict[str, int] = {}
    for name, listener in config.listeners.items():
        found = places(name, listener.binds)
        binds |= found
        if listener.protocol == "udp":
            datagrams |= dict.fromkeys(found, workers)
    return binds, datagrams


class Master:
    """Runs the daemon: `run` returns its exit status. Everything happens on the running loop.

    For services: `segment`, `fleet`, `publisher`, `managed`, `discovered`, `engines`, `monitor`, `steering`, `sockets`
    and `registry` exist from their start on; `state` is starting, running or stopping.
    """

    segment: Segment
    registry: Registry
    monitor: HealthMonitor
    steering: Steering
    managed: ManagedPools
    discovered: DiscoveredPools
    engines: EnginePools
    fleet: Fleet
    publisher: Publisher
    certificates: CertificateWatch
    models: ModelReadiness
    agents: AgentMonitor
    pool_calls: PoolCalls
    server_calls: ServerCalls
    counts: InferenceCounts
    cache: CacheOperations
    tier: SharedTier
    model_watch: ModelWatch
    jobs: JobsSupervisor
    settings: Settings
    quotas: QuotaKeeper
    canaries: Canaries
    tables: TableKeeper
    peers: TablePeers
    watch: Watch
    launcher: Launcher
    warm: Launcher
    _runtime: Callable[[], Path]  # the folder for sockets, made when it is first asked for
    _runtime_lock: Callable[[], tuple[Path, int]]  # the same with what locks it

    def __init__(self, options: MasterOptions, clock: Clock | None = None) -> None:
        self._options = options
        self._clock = clock or MonotonicClock()
        self._notifier = options.notifier
        self._reloading = asyncio.Lock()
        self._hangup = asyncio.Event()
        self._shortage: str | None = None  # as it was told last
        self._reopen = False  # asked for while we start
        self._running = asyncio.Event()
        self._stop = asyncio.Event()
        self._stop_at_once = asyncio.Event()
        self.config_path = options.config_path
        self._memory = FileMemory()
        self.state = "starting"
        self.started = time.time()
        self.last_reload: ReloadResult | None = None
        self._texts: tuple[bytes, bytes] = b"", b""  # of the file, before the last reload and in it
        self.reloads = {"ok": 0, "failed": 0}
        passed = options.passed
        self.sockets = SocketTable(passed.sockets, StoredSockets(self._notifier, passed.stored))
        self.access_log = AccessLog()
        self.transitions = TransitionLog()
        self.cdns = Cdns()
        self._keeping: kept.Keeping | None = None
        self._keeping_tables: kept_tables.KeepingTables | None = None
        self._upgrading = asyncio.Event()
        self._upgrade_signals = 0  # that nothing was said of yet
        self._succession: Succession | None = None
        self._becoming: asyncio.Task[None] | None = None  # the program that is installed
        self._taking_over: Outcome | None = None  # as it was told, until that program is read
        self.upgrades = 0  # in this process
        self.last_upgrade: Outcome | None = None
        self.comparisons = Comparisons()
        self._slots = 0  # of the cache's tags
        self._was_ready: set[tuple[str, str, str]] = set()  # pool, endpoint, model: the first time changes nothing

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.publisher.loaded.config

    @property
    def plan(self) -> Plan | None:
        """The plan that every worker has acknowledged."""
        return self.publisher.plan

    async def run(self) -> int:
        """Serves until SIGTERM or SIGINT, then drains. Raises TidegateError when the daemon cannot start."""
        loop = asyncio.get_running_loop()
        # The main thread alone hears of signals, so that none is lost where that one holds them.
        loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio", initializer=signals.hold))
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGINT, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._hangup.set)
        loop.add_signal_handler(signal.SIGUSR1, self._reopen_on_signal)
        loop.add_signal_handler(signals.UPGRADE, self._upgrade_asked)
        signals.release_but_upgrade()
        if self._options.handover is not None:
            self._succession = Succession(self._options.handover, self._environment_back)
        async with contextlib.AsyncExitStack() as cleanup:
            cleanup.push_async_callback(self._end_before_with_start)
            cleanup.callback(self._notifier.close)
            cleanup.callback(self.access_log.close)
            cleanup.callback(self._forget_kept)
            cleanup.callback(self.sockets.close)
            stopping = loop.create_task(self._stop.wait())
            starting = loop.create_task(self._start(cleanup))
            try:
                patience = None if self._succession is None else START
                await asyncio.wait({stopping, starting}, return_when=asyncio.FIRST_COMPLETED, timeout=patience)
                self._go_back_unless(starting, stopping)
                if starting.done():
                    starting.result()
                    self._started()
                    await stopping
            finally:
                await end_tasks([stopping, starting])
        return 0

    def _go_back_unless(self, starting: asyncio.Task[None], stopping: asyncio.Task[Any]) -> None:
        """The program before goes on where this one does not serve, and does not stop. Raises StartError."""
        if self._succession is None:
            return
        self._succession.heard()
        if stopping.done():
            return
        if not starting.done():
            reason = f"it did not serve within {START:.0f} s"
        elif starting.exception() is not None:
            reason = str(starting.exception())
        else:
            return
        self._succession.go_back(reason)
        if not starting.done():
            raise StartError(reason)

    def _environment_back(self, stored: tuple[tuple[str, int], ...]) -> dict[str, str]:
        """For the program before, which finds the descriptor store as it was."""
        self.sockets.give_back(stored)
        return self._environment()

    def _environment(self) -> dict[str, str]:
        """For a program that takes this one's place, with the watchdog's whole time to begin."""
        self._notifier.watchdog()
        return {**os.environ, **self._notifier.environment()}

    def stop(self) -> None:
        """Begins the drain; called again, ends it at once."""
        if self._stop.is_set():
            self._stop_at_once.set()
        self._stop.set()

    def reopen_logs(self) -> None:
        """For log rotation: the access log's path is opened anew, as soon as all have started.

        Raises StartError when the file cannot be opened; the old file goes on being written.
        """
        self._reopen = self.state == "starting"
        if self.state != "running":
            return
        self.access_log.reopen()
        self.fleet.reopen_log()
        log.info("the access log was opened anew")

    async def reload(self, by: str) -> ReloadResult:
        """Loads the configuration file and publishes it; on any error the old configuration stays everywhere. `by`
        says who asked."""
        async with self._reloading:
            self._notifier.reloading()
            before = self.publisher.loaded.text if self.state == "running" else b""
            try:
                with collector_paused():
                    result = replace(await self._reload(), by=by)
                self.last_reload = result
                self._texts = before, await self._text_of(result)
                self.reloads["ok" if result.ok else "failed"] += 1
            finally:
                self._notifier.ready(self.summary())
            return result

    async def _text_of(self, result: ReloadResult) -> bytes:
        """What the file says that was reloaded, or refused."""
        if result.ok:
            return self.publisher.loaded.text
        with contextlib.suppress(ConfigError):
            return await asyncio.to_thread(read, self.config_path)
        return b""

    async def reloaded(self) -> list[dict[str, Any]]:
        """[{setting, from, to}]: what the file of the last reload says otherwise than the one before; of a refused
        reload, what it would have changed."""
        return await asyncio.to_thread(between, *self._texts)

    async def upgrade(self, by: str) -> Outcome:
        """Tries the program that is installed now; where that would start, it takes this one's place in a moment, and
        says what became of it. On any error this program goes on. Whoever asks before the installed program is read
        for good has the outcome of the upgrade under way. `by` says who asked."""
        if (under_way := self._joined(by)) is not None:
            return under_way
        async with self._reloading:
            if (under_way := self._joined(by)) is not None:
                return under_way
            log.info("upgrade: asked for by %s, the trial of the installed program begins", by)
            version = ""
            try:
                if self.state != "running":
                    raise StartError(f"the daemon is {self.state}")
                self.managed.hand_over()
                check_room()
                version = await try_installed(self.config_path, this_program(), self._stop)
                await self._try_addresses()
                admin = await asyncio.to_thread(self._next_admin)
                if self._stop.is_set():
                    raise StartError("the daemon is stopping")
            except StartError as error:
                return self._not_upgraded(version, str(error))
            log.info("upgrade: version %s has shown that it starts, and takes over", version)
            self._taking_over = Outcome(True, time.time(), lb.__version__, version, admin=admin)
            self._becoming = asyncio.create_task(self._become_installed(version))
            return self._taking_over

    def _joined(self, by: str) -> Outcome | None:
        """The upgrade under way whose program is still to be read, if there is one: it is this one, too."""
        if self._taking_over is not None:
            text = "upgrade: asked for by %s, is part of that to version %s, whose program is read after this"
            log.info(text, by, self._taking_over.after)
        return self._taking_over

    def _next_admin(self) -> str:
        """Where the admin server of the next program will listen; "" where the file does not say, or the kernel
        chooses. Blocks."""
        try:
            bind = load_admin(self.config_path)[0].bind
        except ConfigError:
            return ""
        return "" if bind.endswith(":0") else bind

    async def _try_addresses(self) -> None:
        """Addresses of the file that are not ours yet have to be free: the next program could not start otherwise.
        Raises StartError."""
        try:
            wanted = await asyncio.to_thread(load_configuration, self.config_path)
        except ConfigError:
            return  # with keys that only the next program knows
        workers = worker_count(wanted.config)
        binds, datagrams = _sockets(wanted.config, workers)
        if wanted.config.admin.bind != self.config.admin.bind:
            binds[""] = wanted.config.admin.bind  # no listener is named so
        self.sockets.discard(self.sockets.stage(binds, datagrams))

    async def _become_installed(self, version: str) -> None:
        await asyncio.sleep(ANSWER)
        async with self._reloading:
            self._notifier.reloading()
            try:
                await self._hand_over()
            except (StartError, OSError) as error:
                self._not_upgraded(version, str(error))
                if self._stop.is_set():
                    return  # what ends, or has ended, stays so
                self.fleet.keep()
                self.jobs.start(self.config)
                self._notifier.ready(self.summary())
            finally:
                self._taking_over = None
                signals.release()

    def _not_upgraded(self, version: str, error: str) -> Outcome:
        log.error("no upgrade, version %s goes on: %s", lb.__version__, error)
        self.last_upgrade = Outcome(False, time.time(), lb.__version__, version, error)
        return self.last_upgrade

    async def _hand_over(self) -> None:
        """Becomes the installed program. Returns never; raises StartError or OSError, with this one as it was but for
        the jobs process."""
        if self.state != "running":
            raise StartError(f"the daemon is {self.state}")
        await self.jobs.stop()
        signals.hold_all()  # what comes from here on is heard by the next program
        await asyncio.sleep(_HEARD)
        if self._stop.is_set():
            raise StartError("the daemon is stopping")
        if self.plan is not None and self.plan.cache is not None:
            self._keeping = self._keeping or kept.Keeping(self.segment)
            self._slots = ResultCache(self.segment, self.plan.cache.max_object).slots
            self._note_cache()
        self._note_tables()
        self.tables.bring(everything=True)
        inherited, stored = self.sockets.handed()
        servers, wanted = self.managed.hand_over()
        workers, children = self.fleet.hand_over(self.config.shutdown.old_workers_timeout)
        before = self._succession.handed() if self._succession is not None else ()
        launchers = (self.launcher.pid, self.warm.pid)
        limits, said = self.publisher.operated.hand_over()
        runtime, lock = self._runtime_lock()
        handover = Handover(
            before=this_program(),
            number=self.upgrades + 1,
            inherited=tuple(inherited),
            stored=(*stored, *self._kept_descriptors()),
            workers=(*(OldWorker(*each) for each in workers), *before),
            servers=tuple(servers),
            wanted=wanted,
            operated=tuple(Operated(*each) for each in self.registry.operated_endpoints()),
            limits=tuple(OperatedLimit(*each) for each in limits),
            said=tuple(Said(*each) for each in said),
            settings=tuple(
                ChangedSetting(row["setting"], row["value"], row["file"], row["at"], row["by"])
                for row in self.settings.rows()
            ),
            children=(*children, *(pid for pid in launchers if pid is not None)),
            runtime=str(runtime) if lock >= 0 else "",
            runtime_lock=lock,
            text=self.publisher.loaded.text,
            segment=os.dup(self.segment.fd) if self.config.quotas else -1,
        )
        await self.canaries.save()
        await self.quotas.save()  # what is counted from now on is found in the segment
        try:
            async with self.peers.handed_over() as (shared, message):
                canaries = self.canaries.hand_over()
                handover = replace(handover, shared_tables=shared, message=message, canaries=canaries)
                if self._stop.is_set():  # by a thread that does not hold signals
                    raise StartError("the daemon is stopping")
                become(handover.before, handover, self._environment())
        finally:
            if handover.segment >= 0:
                os.close(handover.segment)

    async def publish(self) -> None:
        """Publishes the configuration in force with the managed endpoints of now: see Publisher.publish."""
        await self.publisher.publish()

    async def operate(
        self, pool: str, address: str, update: EndpointUpdate, by: str, dry_run: bool = False
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """An operator's update of an endpoint: its row of the status document, and what differs, {setting, from, to};
        with `dry_run` nothing is done. Raises ConfigError, of an endpoint that is leaving LeavingError, and other
        TidegateErrors where the workers do not take a limit; nothing has changed then."""
        self.publisher.leaving.refuse(pool, address)
        changes = self._update_rows(pool, address, update)
        if dry_run:
            return self._endpoint_row(pool, address), changes
        if update.max_in_flight is not None:
            await self._limit(pool, address, None if update.max_in_flight == "default" else update.max_in_flight)
        self.publisher.health_states.operate(pool, address, update.admin, update.weight)
        for change in changes:
            self.publisher.operated.note(pool, address, change["setting"], time.time(), by)
        row = self._endpoint_row(pool, address)
        for change in changes:
            text = "endpoint %s of pool %s: %s: %s, before %s, by %s"
            log.info(text, address, pool, change["setting"], change["to"], change["from"], by)
        return row, changes

    async def _limit(self, pool: str, address: str, most: int | None) -> None:
        operated, endpoint = self.publisher.operated, find_endpoint(self.plan, pool, address)
        before = operated.set_limit(pool, endpoint, most)
        try:
            await self.publisher.publish()
        except BaseException:
            operated.restore(pool, endpoint, before)
            raise

    def _update_rows(self, pool: str, address: str, update: EndpointUpdate) -> list[dict[str, Any]]:
        endpoint = find_endpoint(self.plan, pool, address)
        weight, file = self.registry.weights(endpoint.slot)
        limit: int | str | None = update.max_in_flight
        if limit == "default":
            limit = self.publisher.operated.file_limit(pool, endpoint) or "none"
        admin = None if update.admin is None else ADMIN[update.admin]
        wanted: tuple[tuple[str, Any, Any], ...] = (
            ("admin", ADMIN[self.registry.operated(endpoint.slot)], admin),
            ("weight", weight, file if update.weight == "default" else update.weight),
            ("max_in_flight", endpoint.max_in_flight or "none", limit),
        )
        return [
            {"setting": name, "from": now, "to": value}
            for name, now, value in wanted
            if value is not None and value != now
        ]

    def _endpoint_row(self, pool: str, address: str) -> dict[str, Any]:
        rows = next(row["endpoints"] for row in self.status()["pools"] if row["name"] == pool)
        found: dict[str, Any] = next(row for row in rows if row["address"] == address)
        return found

    async def change_settings(self, wanted: dict[str, Any], by: str, dry_run: bool = False) -> list[dict[str, Any]]:
        """Gives settings other values (lb.config.settings), all of them or none; RESET stands for the file's value.
        What differs: {setting, from, to}; with `dry_run` nothing is done. The file is not read.

        Raises ConfigError for what is wrong with them, other TidegateErrors where the workers do not take it.
        """
        async with self._reloading:
            found, rows = self.settings.changed(wanted, by)
            if dry_run or not rows:
                return rows
            await self.publisher.publish(replace(self.publisher.loaded, config=found.config))
            self.settings = found
        for row in rows:
            log.info("%s: %s, before %s, by %s", row["setting"], row["to"], row["from"], by)
        return rows

    def changes(self) -> list[dict[str, Any]]:
        """What operators have changed and is in force: settings, {setting, value, file, at, by}, and of endpoints the
        same with `pool` and `endpoint`."""
        return [*self.settings.rows(), *self.publisher.operated.rows()]

    async def reload_certificates(self, dry_run: bool = False) -> dict[str, Any]:
        """Takes certificates and keys into use that have changed on disk: CertificateWatch.reload."""
        async with self._reloading:
            return await self.certificates.reload(dry_run)

    async def explain(self, asked: dict[str, Any], worker: int | None) -> dict[str, Any]:
        """What a worker would do with a request (Fleet.explain), with the state of each endpoint as status shows it.

        Raises ConfigError with what cannot be asked, StartError when no worker answers."""
        if self.state == "stopping":
            raise StartError("the daemon is stopping: it takes no new connections")
        found = await self.fleet.explain(asked, worker)
        if found["pool"] is not None:
            rows = next(
                (row["endpoints"] for row in self.status()["pools"] if row["name"] == found["pool"]["name"]), ()
            )
            known = {row["address"]: row for row in rows}
            for row in found["pool"]["endpoints"]:
                status = known.get(row["address"], {})
                row.update({key: status.get(key, "unknown") for key in ("health", "admin")})
                row["why_not"] = (status.get("steering") or {}).get("why_not") or row["why_not"]
        return found

    def scaling(self, pool: str) -> dict[str, Any]:
        """Requests that have arrived for a pool so far (None where they are not counted), and why it has as many
        replicas as it has (None where it is not scaled). Raises ConfigError when there is no such pool."""
        find_pool(self.plan, pool)
        counts = self.publisher.counts(pool)
        return {
            "pool": pool,
            "arrived": None if counts is None else counts.arrived,
            "scaling": self.managed.explain(pool) or self.engines.explain(pool),
        }

    def status(self) -> dict[str, Any]:
        """The document of /api/v1/status and `tidegate status`: see lb.control.admin.status."""
        return status.document(self, self._clock.now())

    def readings(self) -> dict[str, Any]:
        """The document of /api/v1/counters and `tidegate top`: see lb.control.admin.readings."""
        return readings.document(self, self._clock.now())

    def program(self) -> dict[str, Any]:
        """Which code runs, and what became of the last upgrade."""
        return {
            "path": this_program().path,
            "pid": os.getpid(),
            "upgrades": self.upgrades,
            "old_workers": self._succession.workers if self._succession is not None else [],
            "last_upgrade": self.last_upgrade.to_dict() if self.last_upgrade is not None else None,
        }

    def ready(self) -> tuple[bool, str]:
        """Whether new requests are welcome, and why not."""
        if self.state != "running":
            return False, self.state
        if not any(member.state == "running" for member in self.fleet.members):
            return False, "no worker is running"
        waiting = self.managed.waiting()
        if waiting:
            return False, f"no model server has been ready yet in {', '.join(waiting)}"
        coming = self.managed.endpoints(self.config, self.plan)
        for pool in self.plan.pools if self.plan else ():
            if coming.get(pool.name) and not pool.endpoints and not pool.on_demand:
                return False, f"the first model server of pool {pool.name} is about to join"
            wanted = self.config.pools[pool.name].ready_endpoints
            found = sum(
                self.segment.health(e.slot) == UP and self.segment.admin(e.slot) == ENABLED for e in pool.endpoints
            )
            if found < wanted:
                return False, f"pool {pool.name} has {found} of the {wanted} endpoints that it needs"
        return True, "ready"

    def summary(self) -> str:
        """One line for the service manager."""
        running = sum(member.state == "running" for member in self.fleet.members)
        text = f"{running} of {len(self.fleet.members)} workers, plan {self.plan.generation if self.plan else 0}"
        if self.last_reload is not None and not self.last_reload.ok:
            text += f"; the last reload failed: {self.last_reload.error}"
        return text

    async def _start(self, cleanup: contextlib.AsyncExitStack) -> None:
        """Brings everything up; what came up is taken down by `cleanup`, in the reverse order."""
        handover = self._options.handover
        # A program that goes on after a failed upgrade does so with what it had, whatever is in the file by now.
        text = handover.text or None if handover is not None and handover.failed else None
        loaded = await asyncio.to_thread(load_configuration, self.config_path, self._memory, (check_sources,), text)
        handed = (handover.runtime, handover.runtime_lock) if handover is not None else ("", -1)
        self._runtime_lock = cache(lambda: cleanup.enter_context(runtime_directory(handed)))
        self._runtime = lambda: self._runtime_lock()[0]
        loaded = replace(loaded, config=with_jobs(loaded.config, self._runtime))
        config = loaded.config
        set_level(config.log.level)
        workers = worker_count(config)
        # The ports before the processes: a taken one is the likeliest thing to fail.
        binds, datagrams = _sockets(config, workers)
        self.sockets.close_unused(binds, datagrams, [config.admin.bind])
        self.sockets.commit(self.sockets.stage(binds, datagrams))
        for address in self.sockets.unclaimed:
            log.warning("no listener uses the socket %s passed by the service manager", address)
        cache_size = config.cache.size if config.cache else 0
        sessions = sets_wanted(config)
        tables = kept_tables.take(self._options.passed.stored)
        before = await asyncio.to_thread(self._load_cache, config.cache)
        secret = before.head.secret if before is not None else None
        disk = await self._open_disk(config.cache, secret)
        self.segment = Segment.create(
            workers, ENDPOINT_CAPACITY, SERIES_CAPACITY, cache_size, session_sets=sessions,
            stick_sets=stick_sets(config.tables),
            cache_secret=disk.secret if disk is not None else secret,
            stick_secret=tables.secret if tables is not None else None,
        )  # fmt: skip
        cleanup.callback(self.segment.close)
        shared = handover.shared_tables if handover is not None else ()
        self.tables = TableKeeper(self.segment, self._clock, tables, shared)
        message = handover.message if handover is not None else 0
        self.peers = TablePeers(self.tables, lambda: self.config, self._clock, message)
        cleanup.push_async_callback(self.peers.close)
        cleanup.callback(self.tables.let_go)  # before that: what workers of the program before counted last is told
        self.quotas = QuotaKeeper(self.segment)
        cleanup.push_async_callback(self.quotas.close)
        await self.quotas.apply(config)
        self._take_quotas(handover)
        disk = await self._begin_disk(config.cache, disk)
        if disk is not None:
            cleanup.callback(disk.close)
        elif config.cache is not None and config.cache.disk is not None:
            config = config.model_copy(update={"cache": config.cache.model_copy(update={"disk": None})})
            loaded = replace(loaded, config=config)
        self.cache = CacheOperations(self.segment, lambda: self.plan, self._clock, [self.cdns.purged], disk)
        cleanup.push_async_callback(self.cdns.close)
        self.tier = SharedTier(self.cache.memory, lambda: self.fleet.tiers(), self.cache.purged_elsewhere, self._clock)
        self.cache.purging = self.tier.purging
        cleanup.push_async_callback(self.tier.close)
        self.transitions.follow(self._on_transition)
        self.model_watch = ModelWatch(self._cached_pools, self.cache.model_changed)
        self.registry = Registry(self.segment, ENDPOINT_CAPACITY, SERIES_CAPACITY)
        for operated in handover.operated if handover is not None else ():
            self.registry.remember(operated.pool, operated.address, operated.admin, operated.weight)
        self.monitor = HealthMonitor(
            self._on_health,
            self._clock,
            on_models=self._on_models,
            believed=lambda target: self.publisher.health_states.up_by_checks(target.slot),
            answered=lambda target: answered_well(self.segment, target),
        )
        self.steering = Steering(self.segment, self._clock, self.monitor.was_up, self._is_doubtful)
        self.models = ModelReadiness(self.segment, self.transitions, self._clock.now)
        self.agents = AgentMonitor(
            lambda target, answer: self.publisher.health_states.agent_told(target, answer),
            lambda target: self.publisher.health_states.agent_gone(target),
            self._clock,
        )
        cleanup.push_async_callback(self.monitor.close)
        cleanup.push_async_callback(self.agents.close)
        load_reports = LoadReportMonitor(
            lambda target, reported: self.segment.set_load_report(target.slot, *reported, self._clock.now())
        )
        cleanup.push_async_callback(load_reports.close)
        ticking = await cleanup.enter_async_context(contextlib.AsyncExitStack())
        runtime = self._runtime()
        self.launcher, self.warm = Launcher(), Launcher(WARM)
        cleanup.callback(self.launcher.close)
        cleanup.callback(self.warm.close)
        self.jobs = JobsSupervisor(runtime, self._clock)
        cleanup.push_async_callback(self.jobs.stop)
        self.jobs.start(config)
        servers = self._handed_servers()
        context = ServerContext(
            runtime_dir=runtime,
            exited=self._on_exit,
            inflight=lambda pool, address: self.publisher.inflight(pool, address),
            busy=lambda pool, address: self.publisher.busy(pool, address),
            waiting=lambda pool: self.publisher.waiting(pool),
            counts=lambda pool: self.publisher.counts(pool),
            begun=lambda pool: self.publisher.begun(pool),
            kept_away=lambda pool: self.publisher.kept_away(pool),
            down=lambda pool, addresses: self.publisher.down(pool, addresses),
            starting=lambda pool, start: self.fleet.tell_start(pool, start),
            report=lambda pool, address: self.publisher.report(pool, address),
            jobs=lambda pool: self.jobs.backlog(pool),
            clock=self._clock,
            machine=Machine(self.launcher, self.warm, Placement(), Ports()),
            state_dir=state_directory(),
            handed=servers,
            handed_wanted=handover.wanted if handover is not None else {},
        )
        self.managed = ManagedPools(
            lambda name, pool, changed: ModelServers(name, pool, changed, context),
            lambda pool: self.publisher.endpoints_changed(pool),
            {pool: [EndpointSpec(each.address) for each in found] for pool, found in servers.items()},
        )
        cleanup.push_async_callback(self._stop_model_servers)
        self.discovered = DiscoveredPools(lambda pool: self.publisher.endpoints_changed(pool), self._clock)
        cleanup.push_async_callback(self.discovered.close)
        self.engines = EnginePools(
            EngineContext(
                up=lambda pool: [asked.address for asked in self._endpoints_up(pool)],
                known=self._addresses,
                inflight=lambda pool, address: self.publisher.inflight(pool, address),
                busy=lambda pool, address: self.publisher.busy(pool, address),
                waiting=lambda pool: self.publisher.waiting(pool),
                begun=lambda pool: self.publisher.begun(pool),
                starting=lambda pool, start: self.fleet.tell_start(pool, start),
                counts=lambda pool: self.publisher.counts(pool),
                report=lambda pool, address: self.publisher.report(pool, address),
                jobs=lambda pool: self.jobs.backlog(pool),
                clock=self._clock,
                state_dir=state_directory(),
            )
        )
        cleanup.push_async_callback(self.engines.close)
        self.server_calls = ServerCalls(
            self._endpoints_up,
            self._find_endpoint,
            self._call_rules,
            self._models_changed,
            lambda pool, withheld: self.publisher.models_withheld(pool, withheld),
            lambda pool, addresses, model, ready: self.publisher.model_changed(pool, addresses, model, ready),
        )
        cleanup.callback(self.server_calls.follow, {})
        self.counts = InferenceCounts(
            lambda pool: self.fleet.model_counts(pool), lambda pool: self.publisher.models_changed(pool)
        )
        self.pool_calls = PoolCalls(self._callable_endpoints, self.server_calls, self.counts, wake=self._woken)
        self.fleet = Fleet(
            workers,
            self.segment,
            self._options.fleet,
            self._clock,
            self.access_log.fileno,
            self._recover_cache,
            self.pool_calls.answer,
            self._wake,
            self.comparisons.add,
        )
        self.canaries = Canaries(
            state_directory(),
            lambda pool: self.publisher.counts(pool),
            lambda pool: self.publisher.takes_requests(pool),
            lambda: self.publisher.shares_changed(),
            self.comparisons.counts,
            self._clock,
        )
        await asyncio.to_thread(self.canaries.load, handover.canaries if handover is not None else b"")
        cleanup.push_async_callback(self.canaries.save)
        tickets = TicketRing(self._clock.now())
        parts = Parts(
            self.segment,
            self.registry,
            self.sockets,
            self.access_log,
            self.fleet,
            self.managed,
            self.discovered,
            self.monitor,
            self.steering,
            tickets,
            self.models,
            self.transitions,
            self.agents,
            load_reports,
            self.server_calls,
            self.counts,
            self.engines,
            self.canaries,
            self.tables,
        )
        config = self._take_settings(config, handover)
        set_level(config.log.level)
        loaded = replace(loaded, config=config)
        self.publisher = Publisher(loaded, workers, parts, self._clock, self.cache.pool_changed, self.tier)
        if handover is not None:
            self._take_operated(handover)
        self.certificates = CertificateWatch(self.publisher, tickets, self._clock)
        self.watch = Watch(self, self._clock)
        cleanup.push_async_callback(self.watch.close)
        services = await cleanup.enter_async_context(contextlib.AsyncExitStack())
        cleanup.push_async_callback(self._drain)
        await self.fleet.start()
        await self.publisher.publish(loaded)
        await self.jobs.wait_ready()
        self.cdns.apply(config.cache)
        self.certificates.started()
        self.canaries.follow(config)
        self.comparisons.follow(config)
        await self.watch.apply(config)
        for factory in self._options.services:
            service = factory(self)
            await service.start()
            services.push_async_callback(service.stop)
        ticking.push_async_callback(end_tasks, [asyncio.create_task(self._tick())])
        for work in (
            self._reload_on_hangup(),
            self._upgrade_on_signal(),
            self.publisher.follow_endpoints(),
            self._watch_certificates(),
            self.steering.run(),
            self.model_watch.run(),
            self.watch.run(),
            self._restore(before),
            self._follow_tables(),
            self._tell_old_workers(),
            self.quotas.run(),
            self.peers.run(),
            self.canaries.run(),
        ):
            cleanup.push_async_callback(end_tasks, [asyncio.create_task(work)])

    def _take_quotas(self, handover: Handover | None) -> None:
        """Workers of the program before count on in its segment while they drain."""
        if handover is None or self._succession is None or handover.segment < 0:
            return
        try:
            self.quotas.take_over(Segment.attach(handover.segment))
        except TidegateError as error:
            os.close(handover.segment)
            log.warning("quotas: requests of the workers before are not counted while they drain: %s", error)
            return
        self._succession.when_gone(self.quotas.let_go)

    def _handed_servers(self) -> dict[str, list[ServerHandover]]:
        """The model servers of the program before, by pool. Those that no pool takes end with the last worker of that
        program."""
        found: dict[str, list[ServerHandover]] = {}
        if self._succession is None:
            return found
        for server in self._succession.handover.servers:
            found.setdefault(server.pool, []).append(server)

        def end_others() -> None:
            for server in (server for servers in found.values() for server in servers):
                os.close(server.socket)
                os.close(server.output)
            found.clear()

        self._succession.when_gone(end_others)
        return found

    def _succeeded(self) -> None:
        """The workers of the program before are let go."""
        if self._succession is None:
            return
        handover = self._succession.handover
        failed, before = handover.failed, handover.before.version
        self.upgrades = handover.number - bool(failed)
        versions = (lb.__version__, before) if failed else (before, lb.__version__)
        self.last_upgrade = Outcome(not failed, time.time(), *versions, failed)
        self._succession.succeeded()
        if failed:
            log.error("no upgrade, version %s goes on: %s", lb.__version__, failed)
        else:
            log.info("upgraded from version %s to version %s, in %s", before, lb.__version__, this_program().path)

    def _started(self) -> None:
        self.state = "running"
        self._succeeded()
        gc.collect()
        gc.freeze()  # modules and a configuration, which may be large, are not looked at after each reload
        gc.enable()  # `tidegate run` starts with it off
        log.info("serving: %s", "; ".join(self._served()))
        self._tell_shortage()
        self._notifier.ready(self.summary())
        self._running.set()
        if self._reopen:
            self._reopen_on_signal()

    def shortage(self) -> str | None:
        """What the limit of open files, which workers have from us, does not leave room for."""
        return shortage(self.plan, room(self.plan), len(self.fleet.members)) if self.plan is not None else None

    def _tell_shortage(self) -> None:
        text = self.shortage()
        if text is not None and text != self._shortage:
            log.warning("%s", text)
        self._shortage = text

    def _served(self) -> Iterator[str]:
        """Each listener with its sockets, at most a few of them."""
        for listener in self.plan.listeners if self.plan else ():
            sockets = self.sockets.shown(listener.places())
            more = f" and {len(sockets) - _SOCKETS} more" if len(sockets) > _SOCKETS else ""
            yield f"{listener.name} on {', '.join(sockets[:_SOCKETS])}{more}"

    def addresses(self) -> dict[str, str]:
        """Listener -> the address it really has, which says the port where the configuration says 0."""
        return (
            {listener.name: self.sockets[listener.name].address for listener in self.plan.listeners}
            if self.plan
            else {}
        )

    async def _drain(self) -> None:
        """Lets the workers finish what they have; model servers live on until then."""
        self.state = "stopping"
        self._notifier.stopping("draining")
        log.info("stopping: no new connections, running exchanges may finish")
        self.jobs.drain()
        self.sockets.close()
        drain = self.config.shutdown.drain_timeout
        before = asyncio.create_task(self._end_before(drain / SECOND))
        await self.fleet.stop(drain, self._stop_at_once)
        await before
        await self._keep_cache()

    async def _end_before_with_start(self) -> None:
        """A stop that comes while this program starts, and has no drain of its own yet, ends the workers of the program
        before as well: nobody else would."""
        if self._stop.is_set():
            await self._end_before(ShutdownConfig().drain_timeout / SECOND)

    async def _end_before(self, seconds: float) -> None:
        if self._succession is not None and self._succession.workers:
            await self._succession.end(seconds, self._stop_at_once)

    async def _stop_model_servers(self) -> None:
        stopping = asyncio.create_task(self.managed.stop())
        hurry = asyncio.create_task(self._stop_at_once.wait())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            self.managed.kill()
        await stopping
        await end_tasks([hurry])

    async def _open_disk(self, cache: CacheConfig | None, secret: bytes | None) -> Keeper | None:
        """None: there is none, or it cannot be used, which the log says."""
        if cache is None or cache.disk is None:
            return None
        try:
            return await asyncio.to_thread(Keeper, cache.disk.path, secret)
        except OSError as error:
            log.error("cache.disk: %s is not used: %s", cache.disk.path, error.strerror)
            return None

    async def _begin_disk(self, cache: CacheConfig | None, disk: Keeper | None) -> Keeper | None:
        if cache is None or disk is None:
            return None
        try:
            slots = ResultCache(self.segment, cache.max_object).slots
            await asyncio.to_thread(disk.begin, slots)
            return disk
        except OSError as error:
            log.error("cache.disk: %s is not used: %s", cache.disk.path if cache.disk else "", error.strerror)
            disk.close()
            return None

    def _take_settings(self, file: Config, handover: Handover | None) -> Config:
        """The file's configuration with what operators changed before an upgrade."""
        rows = [
            {"setting": each.name, "value": each.value, "file": each.file, "at": each.at, "by": each.by}
            for each in (handover.settings if handover is not None else ())
        ]
        self.settings, ended = Settings.remembered(file, rows)
        for text in ended:
            log.warning("%s", text)
        return self.settings.config

    def _take_operated(self, handover: Handover) -> None:
        """What operators said of endpoints before an upgrade; their states and weights the registry has already."""
        for limit in handover.limits:
            self.publisher.operated.remember_limit(limit.pool, limit.address, limit.most, limit.file)
        for said in handover.said:
            self.publisher.operated.note(said.pool, said.address, said.what, said.at, said.by)

    def _load_cache(self, cache: CacheConfig | None) -> snapshot.Snapshot | kept.KeptSegment | None:
        """What there was before the restart. Blocks."""
        stored = kept.take(self._options.passed.stored, self._clock.now)
        file = snapshot.load(cache.snapshot) if cache is not None and cache.snapshot is not None else None
        if stored is not None and cache is None:
            stored.close()
            return None
        return stored or file

    async def _restore(self, before: snapshot.Snapshot | kept.KeptSegment | None) -> None:
        """What the cache had before the restart. From now on the next start has what there is now: a purge that comes
        is of that, and what is restored later than that has not come back in vain."""
        plan = self.plan
        self._forget_tables()
        with contextlib.ExitStack() as cleanup:
            if isinstance(before, kept.KeptSegment):
                self.cache.tell(before.purged)
                # Workers of the program before go on with it.
                cleanup.callback(self._succession.when_gone if self._succession is not None else _call, before.close)
            if plan is None or plan.cache is None:
                kept.forget(self._options.passed.stored, self._notifier)
                self._keep_tables()
                return
            cache = ResultCache(self.segment, plan.cache.max_object)
            if self._notifier.stores:
                self._keep_segment(cache)
            self._keep_tables()
            if before is None:
                return
            restoring: snapshot.Restoring[Any] = snapshot.Restoring(before, cache, self._clock.now)
            self.cache.tell(restoring.purged)
            self.model_watch.looked = restoring.looked
            try:
                await restoring.run(plan, snapshot.pools_of(self.config))
            except Exception:  # one that nobody foresaw costs what was before alone
                log.exception("what the cache had before was not restored")

    def _keep_segment(self, cache: ResultCache) -> None:
        try:
            self._keeping = kept.Keeping(self.segment)
        except OSError as error:
            log.error("the result cache will begin empty after a restart: %s", error.strerror)
            return
        self._slots = cache.slots
        self._note_cache()
        self._keeping.store(self._notifier)

    def _keep_tables(self) -> None:
        """Has the service manager keep the tables, once there are some."""
        if self._notifier.stores and self._note_tables() and self._keeping_tables is not None:
            self._keeping_tables.store(self._notifier, with_segment=self._keeping is None)

    def _forget_tables(self) -> None:
        """Those of the daemon before, where there are none any more."""
        if not self.tables.kept and any(each.name == kept_tables.TABLES for each in self._options.passed.stored):
            self._notifier.forget(kept_tables.TABLES)

    def _note_tables(self) -> bool:
        """Notes the tables for the next program; whether that is new to the service manager."""
        if self._keeping_tables is not None:
            self._keeping_tables.note(self.tables.kept)
            return False
        if not self.tables.kept:
            return False
        try:
            self._keeping_tables = kept_tables.KeepingTables(self.segment)
        except OSError as error:
            log.error("the tables will begin empty after a restart: %s", error.strerror)
            return False
        self._keeping_tables.note(self.tables.kept)
        return True

    def _kept_descriptors(self) -> list[tuple[str, int]]:
        """What the next program finds of the segment, by name."""
        found = [] if self._keeping is None else list(self._keeping.named())
        if self._keeping_tables is not None:
            found += self._keeping_tables.named(with_segment=self._keeping is None)
        return found

    async def _follow_tables(self) -> None:
        """What workers of the program before count while they drain is added."""
        while self._succession is not None and self._succession.workers:
            await asyncio.sleep(_TICK)
            await self.tables.bring_in_parts()
        self.tables.let_go()

    async def _tell_old_workers(self) -> None:
        """Workers of the program before have a segment of their own, and hear of endpoints that come up or go down."""
        await self._running.wait()
        told: dict[str, dict[str, bool]] = {}
        while self._succession is not None and self._succession.workers:
            found: dict[str, dict[str, bool]] = {}
            for pool, address, slot in self.registry.slots():
                maintained = self.registry.in_maintenance(slot)
                if maintained or not self.monitor.awaited(pool, address, slot):  # else the old workers know better
                    found.setdefault(pool, {})[address] = not maintained and self.segment.health(slot) != DOWN
            if found != told:
                told = found
                self._succession.tell(found)
            await asyncio.sleep(_TOLD)

    def _note_cache(self) -> None:
        if self._keeping is not None:
            self._keeping.note(self.config, self._slots, self.model_watch.known())

    def _forget_kept(self) -> None:
        for keeping in (self._keeping, self._keeping_tables):
            if keeping is not None:
                keeping.close()

    async def _keep_cache(self) -> None:
        """For the next start, where the configuration wants that."""
        section, plan = self.config.cache, self.plan
        if section is None or section.snapshot is None or plan is None or plan.cache is None:
            return
        cache = ResultCache(self.segment, plan.cache.max_object)
        await snapshot.save(
            section.snapshot, cache, self._clock.now, snapshot.pools_of(self.config), self.model_watch.known(),
            self._stop_at_once.is_set,
        )  # fmt: skip

    def _recover_cache(self, worker: int) -> None:
        """A worker that died inside of the cache left a lock: its shard is emptied now, not at the next write. What it
        has asked for others is asked by one of those now, not at the end of its lease."""
        plan = self.plan
        if plan is not None and plan.cache is not None:
            cache = ResultCache(self.segment, plan.cache.max_object)
            cache.recover(self._clock.now())
            cache.release_flights(worker)

    def _reopen_on_signal(self) -> None:
        try:
            self.reopen_logs()
        except TidegateError as error:
            log.error("%s", error)

    async def _reload_on_hangup(self) -> None:
        await self._running.wait()  # one that came earlier is about a file that may have been read before
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            await self.reload("SIGHUP")

    async def _upgrade_on_signal(self) -> None:
        """One that comes before this program serves waits, as what is installed may be another one by then."""
        await self._running.wait()
        signals.release()
        while True:
            await self._upgrading.wait()
            self._upgrading.clear()
            number, self._upgrade_signals = self._upgrade_signals, 0
            await self.upgrade("SIGUSR2" if number == 1 else f"SIGUSR2 ({number} times)")

    def _upgrade_asked(self) -> None:
        self._upgrade_signals += 1
        self._upgrading.set()

    async def _watch_certificates(self) -> None:
        while True:
            await asyncio.sleep(_CERTIFICATES)
            async with self._reloading:
                await self.certificates.look()

    async def _reload(self) -> ReloadResult:
        try:
            if self.state != "running":
                raise StartError(f"the daemon is {self.state}")
            wanted = await asyncio.to_thread(load_configuration, self.config_path, self._memory, _CHECKS)
            decision = decide(self.settings.file, with_jobs(wanted.config, self._runtime))
            self.jobs.check(decision.config)
            self.watch.check(decision.config)
            await self.quotas.apply(decision.config)
            try:
                settings, ended = self.settings.over(decision.config)
                await self.publisher.publish(replace(wanted, config=settings.config))
            except BaseException:
                await self.quotas.apply(self.config)
                raise
            self.settings = settings
            self.publisher.operated.settle()
            self.jobs.apply(decision.config)
            self.cdns.apply(decision.config.cache)
            self.canaries.follow(self.config)
            self.comparisons.follow(self.config)
            await self.watch.apply(decision.config)
        except TidegateError as error:
            log.error("reload failed, the old configuration stays: %s", error)
            problems = tuple(error.problems) if isinstance(error, ConfigError) else ()
            return ReloadResult(False, time.time(), self._generation(), str(error), problems)
        except Exception as error:  # one that nobody foresaw must not be the last reload
            log.exception("reload failed, the old configuration stays")
            return ReloadResult(False, time.time(), self._generation(), f"internal error: {error!r}")
        self.certificates.started()
        notes = (*decision.notes, *short_of_room(decision.config, self.segment.session_sets))
        for note in notes:
            log.warning("needs a restart: %s", note)
        changes = (
            *ended,
            *(f"{row['setting']}: {row['value']} stays, as changed at run time" for row in settings.rows()),
        )
        for change in changes:
            log.info("%s", change)
        log.info("reloaded: plan %d", self._generation())
        self._tell_shortage()
        return ReloadResult(True, time.time(), self._generation(), notes=notes, changes=changes)

    async def _tick(self) -> None:
        """Heartbeats of the workers, our own and our state to the service manager, and freed records."""
        usec = self._notifier.watchdog_usec
        pause = min(_TICK, usec / 4_000_000) if usec else _TICK
        while True:
            await asyncio.sleep(pause)
            if self.state == "running":
                self._notifier.status(self.summary())
            fresh = self.fleet.check_beats(self._clock.now())
            if fresh and usec:
                self._notifier.watchdog()
            self.publisher.sweep()
            self.tier.look()
            self._note_cache()
            self._keep_tables()
            pools = self.plan.pools if self.plan is not None else ()
            self.pool_calls.follow([pool.name for pool in pools])
            self.server_calls.follow({pool.name: [e.address for e in pool.endpoints] for pool in pools})

    async def _models_changed(self, pool: str, model: str) -> None:
        """A model was loaded or unloaded by a call, which is answered when this returns. Until the workers have the
        plan they may ask endpoints that have not done it."""
        await self.publisher.models_changed(pool)
        self.cache.model_changed(pool, model)

    def _on_transition(self, change: Change) -> None:
        """A model that comes or goes may be another one afterwards, and so may all models of an endpoint that was down.
        Those of model servers of our own are what the configuration says."""
        if change.what == "health" and change.after == "up":
            self.model_watch.endpoint_up()
        if change.what.startswith("model "):
            known = change.pool, change.endpoint, change.what
            if known in self._was_ready or change.before == "ready":
                self.cache.model_changed(change.pool, change.what.removeprefix("model "))
            if "ready" in (change.before, change.after):
                self._was_ready.add(known)
                if len(self._was_ready) > _MOST_READY:
                    self._was_ready = {known}
        elif change.what == "health" and change.before == "down" and change.after == "up":
            pool = self._pool_plan(change.pool)
            if pool is not None and pool.protocol == "oip" and not pool.managed:
                self.cache.pool_changed(change.pool)

    def _cached_pools(self) -> dict[str, WatchedPool]:
        """Those whose answers the cache may have."""
        if self.plan is None or self.plan.cache is None:
            return {}
        return {
            pool.name: WatchedPool(
                self._endpoints_up(pool.name), [e.address for e in pool.endpoints], [m for m in pool.models if m]
            )
            for pool in self.plan.pools
            if pool.protocol == "oip"
        }

    def _callable_endpoints(self, name: str) -> list[Asked]:
        """The endpoints of a pool that are not down."""
        pool = self._pool_plan(name)
        if pool is None:
            return []
        return [
            Asked(endpoint.address, check_tls(pool, endpoint))
            for endpoint in (*pool.endpoints, *pool.leaving)
            if self.segment.health(endpoint.slot) != DOWN
        ]

    def _wake(self, name: str) -> None:
        """Requests wait in a worker for an endpoint of a pool that has none."""
        self.managed.wake(name)
        self.engines.wake(name)

    async def _woken(self, name: str) -> str | None:
        """Has a model server started where a pool on demand is at zero, and waits until it is in the plan: "", or why
        none is. Of another pool at once why none starts, or None."""
        trouble = await self.managed.woken(name)
        if trouble is None:
            trouble = await self.engines.woken(name)
        if trouble == "":
            await self.publisher.publish()
        return trouble

    def _endpoints_up(self, name: str) -> list[Asked]:
        """The endpoints of a pool that are up, but those that leave it or that an operator looks after."""
        pool = self._pool_plan(name)
        if pool is None:
            return []
        return [
            Asked(endpoint.address, check_tls(pool, endpoint))
            for endpoint in pool.endpoints
            if self.segment.health(endpoint.slot) == UP and self.segment.admin(endpoint.slot) != MAINTENANCE
        ]

    def _addresses(self, name: str) -> list[str]:
        """The endpoints of a pool, those included that leave it."""
        pool = self._pool_plan(name)
        leaving = self.publisher.leaving.rows().get(name, ())
        found = [endpoint.address for endpoint in pool.endpoints] if pool is not None else []
        return [*found, *(row["address"] for row in leaving if row["address"] not in found)]

    def _find_endpoint(self, name: str, address: str) -> Asked | None:
        pool = self._pool_plan(name)
        found = [e for e in pool.endpoints if e.address == address] if pool is not None else []
        return Asked(address, check_tls(pool, found[0])) if pool is not None and found else None

    def _pool_plan(self, name: str) -> PoolPlan | None:
        return next((pool for pool in self.plan.pools if pool.name == name), None) if self.plan is not None else None

    def _call_rules(self, pool: str) -> Rules:
        known = self.config.pools.get(pool)
        if known is None:
            return Rules()
        return Rules(known.server_calls.quorum, known.server_calls.timeout / 1e9)

    def _on_exit(self, pool: str, address: str) -> None:
        self.publisher.health_states.endpoint_exited(pool, address)
        self.pool_calls.ended(pool, address)
        self.server_calls.ended(pool, address)

    def _on_health(self, target: Target, up: bool, reason: str) -> None:
        self.publisher.health_states.judge(target.pool, target.address, target.slot, up, reason)

    def _is_doubtful(self, pool: str, address: str, slot: int) -> bool:
        """Whether an endpoint that is down may only be too busy to answer its checks."""
        return self.monitor.doubtful(pool, address, slot) and not self.publisher.health_states.held_down(slot)

    def _on_models(self, target: Target, models: Models, begun: int) -> None:
        self.publisher.models_told(target, models, begun)

    def _generation(self) -> int:
        return self.plan.generation if self.plan else 0


def _call(function: Callable[[], None]) -> None:
    function()
