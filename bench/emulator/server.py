"""One emulated server: what becomes of each request, and the count of it. Connections bring requests, time is told."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from random import Random

from bench.emulator.agenda import Agenda
from bench.emulator.answers import EXHAUSTED, FAILURES, OK, Answers
from bench.emulator.distributions import ns
from bench.emulator.model import Executor, Job
from bench.emulator.spec import FailHow, Instant, Serial, ServerSpec, Service
from bench.emulator.timeline import NEVER, STALLED, Span, Timeline


class Exchange(Job):
    """One request with its answer; connections derive theirs. A `check` is answered without an execution."""

    __slots__ = ("check",)

    def __init__(self, check: bool) -> None:
        super().__init__()
        self.check = check

    def answer(self, outcome: int) -> None:
        """Sends the answer. Called once at most, and not after `ModelServer.cancel`."""
        raise NotImplementedError

    def reset(self) -> None:
        """Resets the connection instead; what else is on it is then cancelled with `by_us`."""
        raise NotImplementedError


@dataclass(slots=True)
class Counts:
    """Since the process began. received = answered + failed + rejected + cancelled + those in flight."""

    received: int = 0
    answered: int = 0
    failed: int = 0
    rejected: int = 0
    cancelled: int = 0
    checks: int = 0
    connections: int = 0


class ModelServer:
    """The model, the planned failures and the counters of one server."""

    def __init__(self, spec: ServerSpec, index: int, seed: int, agenda: Agenda, epoch: int | None) -> None:
        """Planned windows count from `epoch` (ns; None: not before `begin`). Raises BenchError on an unusable file."""
        self.spec = spec
        self.answers = Answers(spec)
        execution = spec.service.execution
        self.by_items = isinstance(execution, Serial) and execution.per_item
        self.counts = Counts()
        self._agenda = agenda
        self._index = index
        self._epoch = epoch
        self._service = spec.service
        self._spans: list[Span] = []
        self._unplanned: list[tuple[Span, FailHow]] = []
        self._failures = self._fail_windows()
        self._inbox: deque[Exchange] = deque()
        self._turning = False
        self._now = 0
        timeline = self._timeline(spec.service)
        random = Random(f"{seed}/{index}")
        self._work = Executor(spec.service.execution, timeline, random, spec.service.max_queue)
        self._checks = Executor(Instant(), timeline, Random(0))

    def __repr__(self) -> str:
        return f"<ModelServer {self._index} {self._work!r}>"

    # Requests

    def receive(self, exchange: Exchange) -> None:
        """A whole request has come; it is answered now or later, or its connection is reset."""
        self._inbox.append(exchange)
        self.tick(time.monotonic_ns())

    def cancel(self, exchange: Exchange, by_us: bool = False) -> None:
        """The client has gone before the answer; `by_us`: because its connection was reset on purpose."""
        self.tick(time.monotonic_ns(), but=exchange)
        executor = self._checks if exchange.check else self._work
        executor.cancel(exchange, self._now)
        if not exchange.check:
            if by_us:
                self.counts.failed += 1
            else:
                self.counts.cancelled += 1
        self._agenda.wake(self, self.due)

    @property
    def due(self) -> int:
        """When `tick` is needed next, in ns."""
        return min(self._work.due, self._checks.due)

    def tick(self, now: int, but: Exchange | None = None) -> None:
        """Sends the answers that are due, all except one whose client has just gone, and takes what has come.

        An answer can bring the connection's next request, and a reset the end of others: those calls do not nest.
        """
        if self._turning:
            return
        self._turning = True
        self._now = now
        try:
            if (due := self.due) <= now:
                self._agenda.note_late(now - due)
                self._advance(now, but)
            while self._inbox:
                self._admit(self._inbox.popleft(), now)
                if self.due <= now:
                    self._advance(now, None)
        finally:
            self._turning = False
        self._agenda.wake(self, self.due)

    def _advance(self, now: int, but: Exchange | None) -> None:
        for exchange in self._checks.advance(now):
            if exchange is not but:
                exchange.answer(OK)
        for exchange in self._work.advance(now):
            if exchange is not but:
                self.counts.answered += 1
                exchange.answer(OK)

    def _admit(self, exchange: Exchange, now: int) -> None:
        if exchange.check:
            self.counts.checks += 1
        else:
            self.counts.received += 1
        if (self._failures or self._unplanned) and (how := self._failing(now)) is not None:
            if not exchange.check:
                self.counts.failed += 1
            if how == "reset":
                exchange.reset()
            else:
                exchange.answer(FAILURES[how])
            return
        executor = self._checks if exchange.check else self._work
        if not executor.arrive(exchange, now):
            self.counts.rejected += 1
            exchange.answer(EXHAUSTED)

    # Plans

    def begin(self, now: int, epoch: int) -> None:
        """Planned windows count from `epoch` (it may lie ahead); the longest queue is looked for anew."""
        self.tick(now)
        self._epoch = epoch
        self._work.forget_peak()
        self._replan(now)

    def serve_as(self, now: int, service: Service) -> None:
        """Another service from now on, its windows from the same epoch. Raises BenchError on an unusable file."""
        self.tick(now)
        self._work.change(now, self._timeline(service), service.execution, service.max_queue)
        self.by_items = isinstance(service.execution, Serial) and service.execution.per_item
        self._service = service
        self._replan(now)

    def slow(self, now: int, start: int, length: int | None, factor: float = STALLED) -> None:
        """Slower by `factor`, or stalled, from `start` on; without `length` until `clear`."""
        self._spans = [span for span in self._spans if span.start + span.length > now]
        self._spans.append(_span(start, length, factor))
        self._replan(now)

    def fail(self, now: int, start: int, length: int | None, how: FailHow) -> None:
        """Fails what arrives from `start` on; without `length` until `clear`."""
        self._unplanned = [(span, why) for span, why in self._unplanned if span.start + span.length > now]
        self._unplanned.append((_span(start, length, STALLED), how))

    def clear(self, now: int) -> None:
        """Takes back every `slow` and `fail`; the planned windows stay."""
        self.tick(now)
        self._spans.clear()
        self._unplanned.clear()
        self._replan(now)

    def stats(self, now: int) -> dict[str, int]:
        """Counters and the state at `now`; `busy_ns` is summed over parallel executions."""
        self.tick(now)
        counts = self.counts
        return {
            "received": counts.received,
            "answered": counts.answered,
            "failed": counts.failed,
            "rejected": counts.rejected,
            "cancelled": counts.cancelled,
            "in_flight": self._work.in_flight(),
            "waiting": self._work.waiting,
            "executing": self._work.executing,
            "queue_max": self._work.peak,
            "busy_ns": self._work.busy(now),
            "checks": counts.checks,
            "connections": counts.connections,
        }

    def _replan(self, now: int) -> None:
        self.tick(now)
        self._failures = self._fail_windows()
        timeline = self._timeline(self._service)
        self._work.change(now, timeline)
        self._checks.change(now, timeline)
        self.tick(now)

    def _timeline(self, service: Service) -> Timeline:
        """The windows that were asked for and, once there is an epoch, the planned ones."""
        if (epoch := self._epoch) is None:
            return Timeline(self._spans)
        stalls = [Span(epoch + ns(s.start_ms), ns(s.length_ms), ns(s.every_ms or 0)) for s in service.stalls]
        slow = [
            Span(epoch + ns(a.start_ms), ns(a.period_ms * a.duty), ns(a.period_ms), a.factor)
            for a in service.antagonists
        ]
        return Timeline([*stalls, *slow, *self._spans])

    def _fail_windows(self) -> list[tuple[Span, FailHow]]:
        if (epoch := self._epoch) is None:
            return []
        return [
            (Span(epoch + ns(f.start_ms), ns(f.length_ms), ns(f.every_ms or 0)), f.how) for f in self._service.failures
        ]

    def _failing(self, now: int) -> FailHow | None:
        for windows in (self._failures, self._unplanned):
            for span, how in windows:
                if span.at(now)[0]:
                    return how
        return None


def _span(start: int, length: int | None, factor: float) -> Span:
    return Span(start, NEVER if length is None else length, 0, factor)
