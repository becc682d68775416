"""The run itself: at each tick all arrivals that are due are sent, whatever became of earlier ones."""

from __future__ import annotations

import asyncio
from array import array
from collections import deque
from collections.abc import Callable
from time import monotonic_ns, process_time_ns
from typing import Any

from bench.load.connect import Client
from bench.load.exchange import Exchange
from bench.load.grpc import GrpcClient
from bench.load.http1 import HttpClient
from bench.load.pacer import Pacer
from bench.load.recorder import Recorder
from bench.load.report import Report
from bench.load.request import choices
from bench.load.spec import Spec
from bench.load.tcp import TcpClient

CLIENTS: dict[str, Callable[..., Client]] = {"http": HttpClient, "grpc": GrpcClient, "tcp": TcpClient}

_SECOND = 1_000_000_000
_LEAD_NS = 20_000_000  # from the end of the preparations to the first arrival
_SWEEP_NS = 5_000_000  # how late a timeout may be found
_BURST = 256  # arrivals sent in one tick before answers are read again


class Engine:
    """One run of a spec with its schedule (offsets in ns from the start of the warm-up). Use it once.

    `measuring` is called when the warm-up ends.
    """

    def __init__(self, spec: Spec, schedule: array[int], length_ns: int, measuring: Callable[[], None]) -> None:
        self.waiting: deque[Exchange] = deque()  # taken on, and no connection had room
        self._spec = spec
        self._schedule = schedule
        self._chosen = choices(len(spec.requests), len(schedule), spec.zipf, spec.seed)
        self._warmup_ns = round(spec.warmup_s * _SECOND)
        self._length_ns = length_ns
        self._timeout_ns = round(spec.timeout_s * _SECOND)
        self._measuring = measuring
        self._deadlines: deque[Exchange] = deque()  # by deadline, since all have the same timeout
        self._outstanding = 0
        self._next = 0
        self._stops = 0
        self._begun = False
        self._cut_ns: int | None = None
        self._before = (0, 0, 0)  # CPU ns, bytes in, bytes out when the warm-up ended
        self._after = (0, 0, 0)

    async def run(self) -> Report:
        """Raises BenchError if the address cannot be resolved; failed requests are in the report."""
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = loop.create_future()
        loop.set_exception_handler(self._broken)
        self._client = CLIENTS[self._spec.protocol](self._spec, self)
        await self._client.resolve()
        self._pacer = Pacer(loop, self._tick)
        try:
            await self._client.open()
            self._start = monotonic_ns() + _LEAD_NS
            self._recorder = Recorder(self._start + self._warmup_ns, self._spec.deadline_s)
            self._pacer.arm(self._start)
            await self._ended
        finally:
            self._pacer.close()
            await self._client.close()
        cut, stop = self._cut_ns, self._recorder.began + self._length_ns
        cpu, received, sent = (after - before for before, after in zip(self._before, self._after, strict=True))
        return self._recorder.report(
            duration_ns=max(1, (stop if cut is None else min(cut, stop)) - self._recorder.began),
            cpu_ns=cpu,
            bytes_in=received,
            bytes_out=sent,
            interrupted=cut is not None,
        )

    def stop(self) -> None:
        """Sends nothing more; a second call waits for no more answers either."""
        self._stops += 1
        if self._cut_ns is None:
            self._cut_ns = monotonic_ns()
            del self._schedule[self._next :]

    # The sink of the client.

    def finish(self, exchange: Exchange, failure: str | None) -> None:
        if exchange.done:
            return
        exchange.done = True
        self._outstanding -= 1
        if exchange.recorded:
            self._recorder.finish(exchange, monotonic_ns(), failure)

    def again(self, exchange: Exchange) -> None:
        if exchange.recorded:
            self._recorder.retried += 1
        self.waiting.appendleft(exchange)

    def ready(self) -> None:
        waiting = self.waiting
        while waiting:
            exchange = waiting[0]
            if not exchange.done and not self._client.send(exchange):
                return
            waiting.popleft()

    # Keeping time.

    def _tick(self) -> None:
        now = monotonic_ns()
        if not self._begun and now >= self._recorder.began:
            self._begin()
        schedule, start, index = self._schedule, self._start, self._next
        stop = min(len(schedule), index + _BURST)
        while index < stop and (intended := start + schedule[index]) <= now:
            self._next = index + 1
            self._arrive(index, intended)
            index += 1
        self._client.flush()
        self._sweep(now)
        if index < len(schedule):
            self._pacer.arm(min(start + schedule[index], now + _SWEEP_NS))
        elif self._outstanding and self._stops < 2:
            self._pacer.arm(now + _SWEEP_NS)
        elif self._begun or self._cut_ns is not None:
            self._end()
        else:  # nothing is left to send, and the warm-up is not over
            self._pacer.arm(self._recorder.began)

    def _arrive(self, index: int, intended: int) -> None:
        recorded = 0 <= intended - self._recorder.began < self._length_ns
        if self._outstanding >= self._spec.max_outstanding:
            if recorded:
                self._recorder.drop()
            return
        which = self._chosen[index] if self._chosen is not None else index % len(self._spec.requests)
        request = self._spec.requests[which]
        if recorded:
            self._recorder.arrive(intended, monotonic_ns(), request.label)
        exchange = Exchange(request, which, intended, intended + self._timeout_ns, recorded)
        self._outstanding += 1
        self._deadlines.append(exchange)
        if self.waiting or not self._client.send(exchange):
            self.waiting.append(exchange)

    def _sweep(self, now: int) -> None:
        """Fails what is overdue; what is done goes with it, or at the latest when its own deadline passes."""
        deadlines = self._deadlines
        while deadlines and ((exchange := deadlines[0]).done or exchange.deadline <= now):
            deadlines.popleft()
            if not exchange.done:
                self._fail(exchange, "timeout")

    def _fail(self, exchange: Exchange, kind: str) -> None:
        self.finish(exchange, kind if exchange.sent else f"{kind}_unsent")
        self._client.cancel(exchange)

    def _begin(self) -> None:
        self._begun = True
        self._before = self._totals()
        self._measuring()

    def _end(self) -> None:
        while self._deadlines:
            if not (exchange := self._deadlines.popleft()).done:
                self._fail(exchange, "aborted")
        self._after = self._totals() if self._begun else self._before
        if not self._ended.done():
            self._ended.set_result(None)

    def _totals(self) -> tuple[int, int, int]:
        return process_time_ns(), self._client.bytes_in, self._client.bytes_out

    def _broken(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A fault of ours in a callback ends the run instead of being logged and forgotten."""
        error = context.get("exception")
        if not self._ended.done():
            self._ended.set_exception(error if isinstance(error, Exception) else RuntimeError(context["message"]))
