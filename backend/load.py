"""What the server says of its load with every answer: ORCA, as gRPC and Envoy know it (gRFC A51).

Load balancers weigh servers by it, and ask for it where other balancers use the same servers: Prequal (NSDI 2024,
section 4) wants the requests in flight and the latency that requests have with so many in flight.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from statistics import median
from typing import Any

import grpc

from backend.errors import InvalidInput, Unsupported
from lb.wire import orca_load_report_pb2 as orca

METADATA = "endpoint-load-metrics-bin"
WINDOW_NS = 1_000_000_000  # over which rates and utilization are taken
_RECENT = 16  # latencies that are kept for each number in flight
_EXACT = 16  # numbers in flight that are told apart; above, an eighth of an octave is one


class Load:
    """Requests in flight, queue included, on `slots` places where one can be worked on. Belongs to one loop."""

    def __init__(self, slots: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.slots = slots
        self.in_flight = 0
        self._clock = clock
        self._latencies: dict[int, deque[int]] = {}
        # Of the window that runs, and of the last one: requests, failures, and the time that places were taken.
        self._since = self._changed = clock()
        self._requests = self._failures = self._taken = 0
        self._rps = self._eps = self._utilization = 0.0

    @contextmanager
    def request(self) -> Iterator[None]:
        """Around each request; what it raises counts as a failure, unless it is the client's."""
        started = self._clock()
        self._count(started, 1)
        in_flight = _range(self.in_flight)
        try:
            yield
        except (InvalidInput, Unsupported):
            raise
        except Exception:
            self._failures += 1
            raise
        else:
            self._latencies.setdefault(in_flight, deque(maxlen=_RECENT)).append(self._clock() - started)
        finally:
            self._count(self._clock(), -1)
            self._requests += 1

    def _count(self, now: int, change: int) -> None:
        self._taken += min(self.in_flight, self.slots) * (now - self._changed)
        self._changed = now
        self.in_flight += change

    def latency_ns(self) -> float | None:
        """The median of recent latencies at the number in flight now, or the nearest that was seen; None: no request
        was answered yet."""
        if not self._latencies:
            return None
        here = _range(max(self.in_flight, 1))
        return median(self._latencies[min(self._latencies, key=lambda at: (abs(at - here), at))])

    def report(self) -> Any:
        """An OrcaLoadReport; rates are those of the last whole window."""
        now = self._clock()
        self._count(now, 0)
        passed = now - self._since
        if passed >= WINDOW_NS:
            self._rps = self._requests * 1e9 / passed
            self._eps = self._failures * 1e9 / passed
            self._utilization = self._taken / passed / self.slots
            self._requests = self._failures = self._taken = 0
            self._since = now
        made = orca.OrcaLoadReport(rps_fractional=self._rps, eps=self._eps, application_utilization=self._utilization)
        made.named_metrics["rif"] = self.in_flight
        latency = self.latency_ns()
        if latency is not None:
            made.named_metrics["latency_ms"] = latency / 1e6
        return made


def _range(in_flight: int) -> int:
    """Exact below 16, then eight ranges for each doubling."""
    octaves = (in_flight // _EXACT).bit_length()
    return 8 * octaves + (in_flight >> octaves)


class LoadStream:
    """Reports beside the answers, until `stop` is set."""

    def __init__(self, load: Load, stop: asyncio.Event) -> None:
        self._load = load
        self._stop = stop

    async def StreamCoreMetrics(self, request: Any, context: Any) -> AsyncIterator[Any]:
        period = max(request.report_interval.ToNanoseconds(), WINDOW_NS) / 1e9
        while not self._stop.is_set():
            yield self._load.report()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), period)


class LoadReporter(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Sends a report behind each answer to a unary call, whatever its status: health checks among them."""

    def __init__(self, load: Load) -> None:
        self._load = load

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or handler.request_streaming or handler.response_streaming:
            return handler

        async def reporting(request: Any, context: Any) -> Any:
            self._say(context)  # what aborts a call sends it at once
            answer = await handler.unary_unary(request, context)
            self._say(context)
            return answer

        return grpc.unary_unary_rpc_method_handler(reporting, handler.request_deserializer, handler.response_serializer)

    def _say(self, context: Any) -> None:
        context.set_trailing_metadata(((METADATA, self._load.report().SerializeToString()),))
