"""The life of the server: bind, load, warm up, serve, drain."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from backend.binding_runs import BindingRuns
from backend.gpus import GpuMetrics
from backend.grpc import health, load_reports, reflection
from backend.grpc.front import Front
from backend.grpc.methods import Methods
from backend.inference.engine import Engine
from backend.inference.load import Load
from backend.listener import Listener
from backend.log_settings import LogSettings
from backend.options import ServeOptions
from backend.regions import Regions
from backend.repository.control import POLL, Control
from backend.service import InferenceService, Rare
from backend.serving import Serving
from backend.sockets import UnixPath, listen
from backend.trace_settings import TraceSettings
from backend.tracing import Spans
from lb.net.poller import Poller
from lb.net.timers import Timers
from lb.wire import grpc_service_pb2
from lb.wire.descriptors import POOL

INFERENCE = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
COMPILED = ("ModelInfer", "ModelStreamInfer")  # what needs no Python
_LOOK = 0.02  # seconds between two looks at what is still under way
_FAREWELL = 1.0  # seconds in which clients may close their connections, when all calls are answered

log = logging.getLogger("tidegate.backend")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the server ended. `stuck`: a thread is still inside ONNX Runtime and can only be ended with the process."""

    status: int
    stuck: bool


class Server:
    """One run of the model server. Raises OSError, MemoryError, StartError. Must be made where the loop runs."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._executor = ThreadPoolExecutor(options.concurrency, thread_name_prefix="run")
        load = Load(options.concurrency, time.monotonic_ns())
        log_settings = LogSettings(logging.getLevelName(options.log_level.upper()))
        log_settings.install()
        regions = Regions(all(address.is_local for address in options.listen))
        endpoint = options.trace_endpoint
        self._spans = Spans(endpoint, options.trace_protocol) if endpoint else None
        traces = TraceSettings(self._spans)
        self._service = InferenceService(options.concurrency, regions, traces)
        self._health = health.Health("", INFERENCE.full_name)
        methods = Methods()
        methods.add(INFERENCE, self._service, COMPILED)
        methods.extend(INFERENCE, regions)
        methods.extend(INFERENCE, log_settings)
        methods.extend(INFERENCE, traces)
        methods.add(health.SERVICE, self._health)
        methods.add(load_reports.SERVICE, load_reports.LoadReports(load, self._stop))
        POOL.AddSerializedFile(reflection.SERVICE.file.serialized_pb)
        methods.add(reflection.SERVICE, reflection.Reflection(methods.services, POOL))
        self._gpus = GpuMetrics()
        rare = Rare(self._service, methods, regions, self._gpus)
        self._poller = Poller(asyncio.get_running_loop())
        self._timers = Timers(self._poller)
        self._engine = Engine(self._poller, self._timers, options.concurrency, BindingRuns(self._executor))
        self._front = Front(self._poller, load, rare, traces.tracer)
        self._control = Control(options, Serving(self._engine, self._timers, self._front, self._service, rare, traces))
        self._service.manage(self._control)
        self._listeners: list[Listener] = []
        self._paths: list[UnixPath] = []

    async def run(self) -> Outcome:
        """Serves until SIGTERM or SIGINT; a second one ends the grace of requests in flight. Raises StartError."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            self._bind()
            if await self._load():
                await self._serve()
            await self._drain()
        finally:
            for listener in self._listeners:
                listener.close()
            self._front.close()
            for path in self._paths:
                path.remove()
            self._executor.shutdown(wait=False, cancel_futures=True)
            if self._spans is not None:
                self._spans.close()
            self._control.close()
        stuck = self._engine.running > 0 or self._control.busy
        if not stuck:
            self._engine.close()
            self._timers.close()
            self._poller.close()
        return Outcome(0, stuck)

    def _on_signal(self, number: signal.Signals) -> None:
        log.info("%s: %s", number.name, "stopping now" if self._stop.is_set() else "stopping")
        (self._stop_now if self._stop.is_set() else self._stop).set()

    def _bind(self) -> None:
        for address in self._options.listen:
            sockets, bound, path = listen(address)
            if path is not None:
                self._paths.append(path)
            self._listeners += [Listener(self._front, socket.detach(), path is None) for socket in sockets]
            print(f"listening on {bound}", flush=True)

    async def _load(self) -> bool:
        """Loads and warms up the models off the loop, then offers them. False: told to stop before that was done."""
        loading = asyncio.ensure_future(self._control.start())
        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((loading, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if self._stop.is_set():
            # an error of the load no longer matters; a future whose error nobody looks at would complain
            loading.add_done_callback(lambda loading: loading.cancelled() or loading.exception())
            loading.cancel()
            return False
        loading.result()
        self._health.set(health.SERVING)
        print("ready", flush=True)
        return True

    async def _serve(self) -> None:
        polling = asyncio.ensure_future(self._control.poll()) if self._options.model_control_mode == POLL else None
        gpus = asyncio.ensure_future(self._gpus.follow())
        await self._stop.wait()
        gpus.cancel()
        if polling is not None:
            polling.cancel()

    async def _drain(self) -> None:
        """Says NOT_SERVING, takes no new connections, and lets calls in flight finish within the grace."""
        self._control.stop()
        self._service.withdraw()
        self._health.end()
        for listener in self._listeners:
            listener.close()
        self._front.leave()
        end = time.monotonic() + self._options.grace / 1e9
        await self._until(lambda: not self._front.calls, end)
        # The last answers may still be on their way.
        await self._until(lambda: not self._front.connections, min(end, time.monotonic() + _FAREWELL))

    async def _until(self, done: Callable[[], bool], end: float) -> None:
        """Waits for that, not longer than to `end` (monotonic seconds), and not when told to stop now."""
        while not done() and time.monotonic() < end and not self._stop_now.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._stop_now.wait()


async def serve(options: ServeOptions) -> Outcome:
    """Raises StartError when the server cannot start or become ready."""
    return await Server(options).run()
