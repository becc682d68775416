"""A worker: a process that runs the data path and does what the master says over its channel. The fork server, which
`main` is at first, makes it (lb.control.workers.fork_server).

Frames from the master: `sockets` (descriptors to keep by id), `plan` (swap to it and answer `applied`), `commit` and
`revert` (keep or undo the last plan), `log` (a new access log descriptor), `explain` (answer `explained`), `count`
(answer `counted`), `stop` (drain, then exit 0), `told` (the answer to an `ask`) and `start` (how the start of an
endpoint goes on). Frames to the master: `hello`, `applied`, `explained`, `counted`, `beat`, `ask` (a call whose answer
is a whole pool's), `wake` (requests wait for an endpoint of a pool that has none). A plan is taken bit by bit
(lb.control.workers.adoption); what comes meanwhile waits its turn, but for a `revert` of that plan and a `stop`, which
end it, and for a `told`.

Signals are the master's business: a terminal's Ctrl-C reaches every process of the group, so SIGINT is ignored here,
and so are those by which operators talk to the master (lb.control.signals).
A master that dies closes the channel: the worker gives up its listening sockets at once, drains and exits.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import setproctitle
import uvloop
from msgspec import Struct, field

from lb.clock import MonotonicClock
from lb.config.plan.plan import Plan
from lb.config.plan.wire import learn
from lb.control import signals
from lb.control.logs import set_level, setup_logging
from lb.control.workers.adoption import Adoption
from lb.control.workers.channel import Channel, Message
from lb.control.workers.fork_server import Birth, Server
from lb.errors import StartError, TidegateError
from lb.net.heap import keep_large_blocks
from lb.proxy.exchange.explain.described import Described
from lb.shared.segment import Segment
from lb.upstream.start import Start

BEAT = 1.0  # seconds between two heartbeats
_DRAIN_POLL = 0.05
_GRACE_NS = 100_000_000  # of a drain before idle connections are closed
_RESOURCE_EXHAUSTED, _UNAVAILABLE = 8, 14  # of gRPC
_LARGE = 1 << 20  # bytes of a question
_MOST_ASKED = 32 << 20  # bytes of large questions under way: the channel takes twice as much
_UNKNOWN_DRAIN_NS = 30_000_000_000  # the master died before its first plan

log = logging.getLogger("tidegate.worker")


Told = Callable[[int, str, bytes], None]
"""Takes the answer to a gRPC call: status, message, reply."""
Ask = Callable[[str, str, bytes, Told], None]
"""Asks the master what a pool answers to a method of the Open Inference Protocol: pool, method, request, and what takes
the answer. That is called once, also before this returns."""
Wake = Callable[[str], None]
"""Tells the master that requests wait for an endpoint of this pool, which has none."""


class DataPath(Protocol):
    """What a worker runs; lb.proxy.proxy.Proxy is one.

    `adopt` takes a plan in steps, the last of which puts it into force; if it raises, or is closed before, the old one
    stays. One is under way at a time. The sockets stay the worker's: it closes one only after an `adopt` whose
    `sockets` no longer has it. Whether to log accesses is the plan's word; the
    descriptor is always open, and what it refers to is changed underneath (dup2), so that reopening needs no call.
    `connect` comes before the first plan, with the ways to the master.
    """

    def connect(self, ask: Ask, wake: Wake) -> None: ...
    def tell_start(self, pool: str, start: Start) -> None: ...
    def adopt(self, plan: Plan, sockets: dict[str, int]) -> Iterator[None]: ...
    def stop_accepting(self, replaced: bool = False) -> None: ...
    def end_datagrams(self) -> None: ...
    def drain(self) -> None: ...
    def leave(self) -> None: ...
    def busy(self) -> int: ...
    def explain(self, asked: Described) -> dict[str, Any]: ...
    def model_counts(self, pool: str) -> list[tuple[str, list[int]]]: ...
    def stats(self) -> dict[str, int | str]: ...
    def comparisons(self) -> list[dict[str, Any]]: ...
    def tier_status(self) -> dict[str, Any] | None: ...
    def close(self) -> None: ...


DataPathFactory = Callable[[asyncio.AbstractEventLoop, Segment, int, Sequence[int]], DataPath]


class _Applied(Struct):
    plan: Plan | None = None
    sockets: dict[str, int] = field(default_factory=dict)  # listener -> id of the socket


class Worker:
    """The control side of one worker; everything runs on its event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        index: int,
        sock: socket.socket,
        data_path: DataPath,
        access_log_fd: int,
        segment: Segment,
    ) -> None:
        self._loop = loop
        self._segment = segment
        self._index = index
        self._data_path = data_path
        self._access_log_fd = access_log_fd
        self._fds: dict[int, int] = {}  # id of a listening socket -> descriptor
        self._current = _Applied()
        self._previous = _Applied()
        self._adoption: Adoption | None = None
        self._adopting: int | None = None  # generation of the plan whose adoption the master waits for
        self._waiting: deque[tuple[Message, list[int]]] = deque()  # frames that came during an adoption
        self._drain_deadline: int | None = None
        self._left_behind_ns: int | None = None  # for the drain once the master is another program
        self._left_behind = False
        self._clock = MonotonicClock()
        self.finished: asyncio.Future[None] = loop.create_future()
        self._questions = itertools.count()
        self._asked: dict[int, Told] = {}
        self._asking: dict[int, int] = {}  # bytes of those that are large, which the channel may still have
        self._channel = Channel(loop, sock, self._on_message, self._master_gone)
        data_path.connect(self.ask, self.wake)
        self._handlers: dict[str, Callable[[Message, list[int]], None]] = {
            "sockets": self._on_sockets,
            "plan": self._on_plan,
            "commit": self._on_commit,
            "revert": self._on_revert,
            "log": self._on_log,
            "explain": self._on_explain,
            "count": self._on_count,
            "stop": self._on_stop,
            "handover": self._on_handover,
            "leave": self._on_leave,
            "health": self._on_health,
            "told": self._on_told,
            "start": self._on_start,
        }

    def start(self) -> None:
        self._channel.send({"type": "hello", "pid": os.getpid()})
        self._beat()

    def drain(self, timeout_ns: int, leave: bool = False) -> None:
        """Gives up the listening sockets, lets what runs finish, at most `timeout_ns`. A second call can only
        shorten it. `leave`: workers of another master serve, and idle connections are not closed until then, else after
        a moment."""
        deadline = self._clock.now() + timeout_ns
        if self._drain_deadline is not None:
            self._drain_deadline = min(self._drain_deadline, deadline)
            if not leave:
                self._data_path.drain()
            return
        self._drain_deadline = deadline
        if self._adoption is not None:
            self._abandon("the worker is draining")
        self._data_path.stop_accepting(replaced=leave)
        self._close_sockets(keep=())
        if leave:
            self._data_path.leave()
        elif timeout_ns > 2 * _GRACE_NS:
            # A client that has just had its answer may have sent the next request, or be about to.
            self._data_path.leave()
            self._loop.call_later(_GRACE_NS / 1e9, self._close_idle)
        else:
            self._data_path.drain()
        self._drained()

    def _close_idle(self) -> None:
        if not self.finished.done():
            self._data_path.drain()

    def _drained(self) -> None:
        busy = self._data_path.busy()
        if busy and self._drain_deadline is not None and self._clock.now() < self._drain_deadline:
            self._loop.call_later(_DRAIN_POLL, self._drained)
            return
        if busy:
            log.warning("%d exchanges were cut off at the end of the drain", busy)
        self._data_path.close()
        self._channel.close()
        if not self.finished.done():
            self.finished.set_result(None)

    def terminated(self) -> None:
        """SIGTERM, or the end of the master."""
        plan = self._current.plan
        self.drain(plan.drain_timeout_ns if plan else _UNKNOWN_DRAIN_NS)

    def _master_gone(self, reason: str) -> None:
        if self._left_behind_ns is None:
            log.warning("the channel to the master ended (%s): draining", reason)
        while self._asked:
            self._asked.popitem()[1](_UNAVAILABLE, "the master is gone", b"")
        if self._left_behind_ns is None:
            # Whoever starts the daemon anew binds its addresses, which those of open TCP connections allow.
            self._data_path.end_datagrams()
            self.terminated()
        else:
            self.drain(self._left_behind_ns, leave=True)

    def _on_message(self, message: Message, fds: list[int]) -> None:
        kind = message.get("type")
        if self._adoption is not None and kind not in (
            "stop",
            "told",
            "leave",
        ):  # each frame is about what the ones before it have left
            self._waiting.append((message, fds))
            if kind == "revert" and message["generation"] == self._adopting:
                self._abandon()
            return
        handler = self._handlers.get(str(kind))
        if handler is None:
            log.error("the master sent an unknown frame: %s", kind)
        else:
            handler(message, fds)

    def _on_sockets(self, message: Message, fds: list[int]) -> None:
        self._fds.update(zip(message["ids"], fds, strict=True))

    def _on_plan(self, message: Message, fds: list[int]) -> None:
        generation = message["generation"]
        set_level(message["log_level"])
        if self._drain_deadline is not None:
            return self._answer(generation, "the worker is draining")
        wanted = _Applied(sockets=message["sockets"])

        def done(error: Exception | None) -> None:
            if error is None:
                self._previous, self._current = self._current, wanted
            elif not isinstance(error, TidegateError):
                log.error("plan %d was not applied", generation, exc_info=error)
                error = StartError(f"internal error: {error!r}")
            self._answer(generation, str(error or ""))

        self._adopt(generation, self._read(wanted, message), done)
        return None

    def _read(self, wanted: _Applied, message: Message) -> Iterator[None]:
        plan = Plan.from_wire(message.pop("plan"))
        yield
        yield from self._data_path.adopt(plan, self._descriptors(wanted))
        wanted.plan = plan

    def _answer(self, generation: int, error: str) -> None:
        self._channel.send({"type": "applied", "generation": generation, "error": error})

    def _adopt(self, generation: int | None, steps: Iterator[None], done: Callable[[Exception | None], None]) -> None:
        def finished(error: Exception | None) -> None:
            self._adoption = self._adopting = None
            done(error)
            self._catch_up()

        self._adopting = generation
        self._adoption = Adoption(self._loop, self._clock, steps, finished)

    def _abandon(self, reason: str = "") -> None:
        """Ends the adoption under way with everything as it was; `reason`, if any, is told to the master."""
        assert self._adoption is not None
        generation = self._adopting
        self._adoption.cancel()
        self._adoption = self._adopting = None
        if reason and generation is not None:
            self._answer(generation, reason)
        self._catch_up()

    def _catch_up(self) -> None:
        while self._waiting and self._adoption is None:
            self._on_message(*self._waiting.popleft())

    def _on_commit(self, message: Message, fds: list[int]) -> None:
        self._previous = _Applied()
        self._close_sockets(keep=self._current.sockets.values())

    def _on_revert(self, message: Message, fds: list[int]) -> None:
        current, previous = self._current, self._previous
        if current.plan is None or current.plan.generation != message["generation"]:
            return self._on_commit(message, fds)
        if previous.plan is None:  # the start failed elsewhere: there is nothing to go back to
            return self.drain(0)

        def done(error: Exception | None) -> None:
            if error is not None:  # a mix of two plans must not go on serving: the master starts us anew
                return self.finished.set_exception(error)
            self._current = previous
            return self._on_commit(message, fds)

        self._adopt(None, self._data_path.adopt(previous.plan, self._descriptors(previous)), done)
        return None

    def _on_log(self, message: Message, fds: list[int]) -> None:
        for fd in fds:
            os.dup2(fd, self._access_log_fd, inheritable=False)
            os.close(fd)

    def _on_explain(self, message: Message, fds: list[int]) -> None:
        answer = {"type": "explained", "number": message["number"], "answer": None, "error": ""}
        try:
            asked = message["asked"]
            asked |= {key: tuple((name, value) for name, value in asked[key]) for key in ("headers", "values")}
            answer["answer"] = self._data_path.explain(Described(**asked))
        except TidegateError as error:
            answer["error"] = str(error)
        except Exception as unexpected:
            log.exception("a request was not explained")
            answer["error"] = f"internal error: {unexpected!r}"
        self._channel.send(answer)

    def _on_count(self, message: Message, fds: list[int]) -> None:
        counts = self._data_path.model_counts(message["pool"])
        self._channel.send({"type": "counted", "number": message["number"], "counts": counts})

    def ask(self, pool: str, method: str, request: bytes, told: Told) -> None:
        """See Ask. Without a master the answer is UNAVAILABLE."""
        if self._channel.closed or self._left_behind:
            return told(_UNAVAILABLE, "the master is gone", b"")
        if len(request) > _LARGE and sum(self._asking.values()) + len(request) > _MOST_ASKED:
            return told(_RESOURCE_EXHAUSTED, "too many large requests are under way", b"")
        number = next(self._questions)
        self._asked[number] = told
        if len(request) > _LARGE:
            self._asking[number] = len(request)
        self._channel.send({"type": "ask", "number": number, "pool": pool, "method": method, "request": request})
        return None

    def _on_told(self, message: Message, fds: list[int]) -> None:
        self._asking.pop(message["number"], None)
        self._asked.pop(message["number"])(message["status"], message["message"], message["reply"])

    def wake(self, pool: str) -> None:
        """See Wake. Without a master nothing happens: the drain ends the wait."""
        if not self._left_behind:
            self._channel.send({"type": "wake", "pool": pool})

    def _on_start(self, message: Message, fds: list[int]) -> None:
        self._data_path.tell_start(message["pool"], Start(**message["start"]))

    def _on_stop(self, message: Message, fds: list[int]) -> None:
        self.drain(message["drain_timeout_ns"])

    def _on_handover(self, message: Message, fds: list[int]) -> None:
        """The master is about to be another program, with workers of its own; this one goes on until that says "leave",
        or the channel ends, and then for so long. None: it stays."""
        self._left_behind_ns = message["drain_timeout_ns"]

    def _on_leave(self, message: Message, fds: list[int]) -> None:
        """The workers of the other program serve. It reads nothing from here, and says what it finds of endpoints."""
        self._left_behind = True
        self._master_gone("another program serves")

    def _on_health(self, message: Message, fds: list[int]) -> None:
        """Which endpoints the other program takes for up, by pool and address; others stay as they were."""
        plan, now = self._current.plan, self._clock.now()
        for pool in plan.pools if plan is not None else ():
            known = message["pools"].get(pool.name, {})
            for endpoint in pool.endpoints:
                if endpoint.address in known:
                    self._segment.set_health(endpoint.slot, known[endpoint.address], now)

    def _beat(self) -> None:
        if self._left_behind:
            return
        plan = self._current.plan
        self._channel.send(
            {
                "type": "beat",
                "generation": plan.generation if plan else 0,
                "busy": self._data_path.busy(),
                "stats": self._data_path.stats(),
                "tier": self._data_path.tier_status(),
                "comparisons": self._data_path.comparisons(),
            }
        )
        if not self._channel.closed:
            self._loop.call_later(BEAT, self._beat)

    def _descriptors(self, applied: _Applied) -> dict[str, int]:
        return {listener: self._fds[number] for listener, number in applied.sockets.items()}

    def _close_sockets(self, keep: Iterable[int]) -> None:
        for number in self._fds.keys() - set(keep):
            os.close(self._fds.pop(number))


def main(argv: Sequence[str] | None = None, data_path: DataPathFactory | None = None) -> int:
    """Runs the fork server, and in each process that it makes a worker until that is told to stop; returns the exit
    status. `data_path` replaces the proxy in tests."""
    parser = argparse.ArgumentParser(
        prog="python -m lb.control.workers", description="started by tidegate's master only"
    )
    parser.add_argument("--channel", type=int, required=True)
    options = parser.parse_args(argv)
    setproctitle.setproctitle("tidegate: fork server")
    setup_logging("fork server")
    # It ends with the master, and so that it can tell how workers ended, not before.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signals.ignore()
    os.set_inheritable(options.channel, False)
    factory = data_path or _proxy()
    learn(Plan)
    try:
        keep_large_blocks()
    except OSError as error:
        log.warning("%s: with another allocator, large bodies may cost more", error)
    gc.freeze()  # what is loaded stays: workers share it, and the collector need not look at it between two requests
    gc.enable()
    birth = Server(socket.socket(fileno=options.channel)).serve()
    return 0 if birth is None else _work(birth, factory)


def _work(birth: Birth, factory: DataPathFactory) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    setproctitle.setproctitle(f"tidegate: worker {birth.index}")
    setup_logging(f"worker {birth.index}")
    try:
        uvloop.run(_run(birth, factory))
    except TidegateError as error:
        log.error("%s", error)
        return 1
    return 0


async def _run(birth: Birth, factory: DataPathFactory) -> None:
    loop = asyncio.get_running_loop()
    segment = Segment.attach(birth.segment, birth.index)
    access_log_fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    data_path = factory(loop, segment, access_log_fd, birth.wakeups)
    worker = Worker(loop, birth.index, socket.socket(fileno=birth.channel), data_path, access_log_fd, segment)
    loop.add_signal_handler(signal.SIGTERM, worker.terminated)
    worker.start()
    await worker.finished


def _proxy() -> DataPathFactory:
    from lb.proxy.proxy import Proxy

    return Proxy
