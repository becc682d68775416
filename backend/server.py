"""The life of the server: bind, load, warm up, serve, drain."""

from __future__ import annotations

import asyncio
import logging
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from backend.batching import Batcher
from backend.errors import StartError
from backend.load import Load, LoadReporter, LoadStream
from backend.model import Model
from backend.options import ServeOptions
from backend.repository import Broken, Repository, load, scan
from backend.service import InferenceService
from backend.sockets import UnixPath, listen
from lb.wire import health_pb2 as _health  # noqa: F401 - reflection describes it
from lb.wire import services
from lb.wire.descriptors import POOL

SERVICE = services.INFERENCE.full_name

log = logging.getLogger("tidegate.backend")

_CHANNEL_OPTIONS = (
    ("grpc.so_reuseport", 0),  # else a taken port is shared in silence
    ("grpc.max_receive_message_length", -1),  # tensors have no natural limit; the load balancer in front sets one
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_permit_without_calls", 1),  # a load balancer probes its idle connections
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the server ended. `stuck`: a thread is still inside ONNX Runtime and can only be ended with the process."""

    status: int
    stuck: bool


class Server:
    """One run of the model server."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._executor = ThreadPoolExecutor(options.concurrency, thread_name_prefix="run")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._loading: asyncio.Future[Repository] | None = None
        self._health = health.aio.HealthServicer()
        load = Load(options.concurrency)
        self._reports = LoadStream(load, self._stop)
        self._service = InferenceService(options.max_queue_delay, load)
        self._batchers: dict[Model, Batcher] = {}
        self._paths: list[UnixPath] = []
        self._server = grpc.aio.server(options=_CHANNEL_OPTIONS, interceptors=(LoadReporter(load),))

    async def run(self) -> Outcome:
        """Serves until SIGTERM or SIGINT; a second one ends the grace of requests in flight. Raises StartError."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            await self._bind()
            if await self._load():
                await self._stop.wait()
            await self._drain()
        finally:
            await self._server.stop(None)
            for path in self._paths:
                path.remove()
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._loader.shutdown(wait=False, cancel_futures=True)
        stuck = any(batcher.running for batcher in self._batchers.values())
        return Outcome(0, stuck or (self._loading is not None and not self._loading.done()))

    def _on_signal(self, number: signal.Signals) -> None:
        log.info("%s: %s", number.name, "stopping now" if self._stop.is_set() else "stopping")
        (self._stop_now if self._stop.is_set() else self._stop).set()

    async def _bind(self) -> None:
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        services.serve(self._server, services.INFERENCE, self._service)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        services.serve(self._server, services.LOAD_REPORTS, self._reports)
        POOL.AddSerializedFile(reflection_pb2.DESCRIPTOR.serialized_pb)
        names = (SERVICE, services.LOAD_REPORTS.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, POOL)
        for address in self._options.listen:
            bound, path = listen(self._server, address)
            if path is not None:
                self._paths.append(path)
            print(f"listening on {bound}", flush=True)
        await self._server.start()

    async def _load(self) -> bool:
        """Loads and warms up all models off the loop, then offers them. False: told to stop before that was done."""
        self._loading = asyncio.get_running_loop().run_in_executor(self._loader, self._load_models)
        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((self._loading, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if self._stop.is_set():
            # an error of the load no longer matters; a future whose error nobody looks at would complain
            self._loading.add_done_callback(lambda loading: loading.cancelled() or loading.exception())
            return False
        repository = self._loading.result()
        options = self._options
        self._batchers = {
            model: Batcher(
                model,
                self._executor,
                runs=options.concurrency,
                max_queue=options.max_queue,
                delay=options.max_queue_delay,
            )
            for model in repository
        }
        self._service.offer(repository, self._batchers)
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        log.info("ready: %s", ", ".join(f"{model.name} {model.version}" for model in repository))
        return True

    def _load_models(self) -> Repository:
        """A model that cannot be loaded leaves the others alone. Raises StartError when there is none to serve."""
        options = self._options
        files, broken = scan(options.models)
        models = []
        for file in files:
            if self._stop.is_set():
                break
            try:
                models.append(load(file, options.providers, options.threads, options.max_batch))
            except StartError as error:
                broken.append(Broken(file.name, str(file.version), str(error)))
        if not models and broken:
            raise StartError("; ".join(model.reason for model in broken))
        for model in broken:
            log.error("not served: %s", model.reason)
        return Repository(models, broken)

    async def _drain(self) -> None:
        """Says NOT_SERVING, takes no new calls, and lets those in flight finish within the grace."""
        self._service.withdraw()
        await self._health.enter_graceful_shutdown()
        drained = asyncio.ensure_future(self._server.stop(self._options.grace / 1e9))
        hurry = asyncio.ensure_future(self._stop_now.wait())
        await asyncio.wait((drained, hurry), return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not drained.done():
            await self._server.stop(None)
            await drained

    async def _set_health(self, status: int) -> None:
        for service in ("", SERVICE):
            await self._health.set(service, status)


async def serve(options: ServeOptions) -> Outcome:
    """Raises StartError when the server cannot start or become ready."""
    return await Server(options).run()
