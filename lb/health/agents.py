"""Asks the agents of all endpoints: one task each, so that questions about one endpoint never overlap."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct, field

from lb.clock import Clock
from lb.config.schema.pools.agent import AgentConfig
from lb.health.agent import Answer, ask, parse
from lb.health.check import CheckFailed, at_port, shown

log = logging.getLogger("tidegate.health")

SECOND = 1_000_000_000
_JITTER = 0.1  # share of the interval, as the default of health.jitter


class AgentTarget(Struct, frozen=True):
    """An endpoint whose agent is asked; `slot` is its record in the shared segment."""

    pool: str
    address: str
    slot: int
    agent: AgentConfig

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes it the same endpoint, as in lb.health.monitor."""
        return self.pool, self.address, self.slot

    @property
    def agent_address(self) -> str:
        """Where its agent is."""
        host = self.agent.host
        if host is None:
            return at_port(self.address, self.agent.port)
        return f"[{host}]:{self.agent.port}" if ":" in host else f"{host}:{self.agent.port}"


class _Watch(Struct):
    """The live side of a target: its task, and what came of the questions. `unknown` are the words logged last."""

    target: AgentTarget
    task: asyncio.Task[None] | None = None
    asked: int = 0
    failures: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


class AgentMonitor:
    """Asks, and hands on every answer: `on_answer(target, answer)` is called in the loop, and `on_gone(target)` when an
    endpoint that was asked about no longer is. An agent that does not answer is logged, and changes nothing.

    `update` and `close` need a running loop.
    """

    def __init__(
        self,
        on_answer: Callable[[AgentTarget, Answer], None],
        on_gone: Callable[[AgentTarget], None],
        clock: Clock,
        rng: random.Random | None = None,
    ) -> None:
        self._on_answer = on_answer
        self._on_gone = on_gone
        self._clock = clock
        self._random = rng or random.Random()  # noqa: S311 - it spreads load, it guards nothing
        self._watches: dict[tuple[str, str, int], _Watch] = {}
        self._ended: set[asyncio.Task[None]] = set()

    def update(self, targets: Sequence[AgentTarget]) -> None:
        """Ask about exactly these from now on; what is known of those that stay survives, also under new settings."""
        wanted = {target.key: target for target in targets}
        for key in self._watches.keys() - wanted.keys():
            gone = self._watches.pop(key)
            self._end(gone)
            self._on_gone(gone.target)
        for key, target in wanted.items():
            watch = self._watches.get(key)
            if watch is not None and watch.target.agent == target.agent:
                continue
            if watch is None:
                watch = self._watches[key] = _Watch(target)
            else:
                self._end(watch)
                watch.target = target
            watch.task = asyncio.create_task(self._run(watch), name=f"agent {target.pool} {target.address}")

    async def close(self) -> None:
        """Ask no more, and leave endpoints as they are; every socket is closed when this returns."""
        for watch in self._watches.values():
            self._end(watch)
        self._watches.clear()
        while self._ended:
            await asyncio.gather(*self._ended, return_exceptions=True)

    def status(self) -> dict[str, dict[str, dict[str, Any]]]:
        """pool -> address -> questions asked, failures and the last result: its line or why there is none, when
        (monotonic ns) and how long it took (ns)."""
        pools: dict[str, dict[str, dict[str, Any]]] = {}
        for (pool, address, _), watch in self._watches.items():
            found = {"asked": watch.asked, "failures": watch.failures, "last": dict(watch.last)}
            pools.setdefault(pool, {})[address] = found
        return pools

    def _end(self, watch: _Watch) -> None:
        if watch.task is not None and watch.task.cancel():
            self._ended.add(watch.task)
            watch.task.add_done_callback(self._ended.discard)

    async def _run(self, watch: _Watch) -> None:
        target = watch.target
        agent = target.agent
        address, send = target.agent_address, agent.send.encode("latin-1")
        # A new endpoint serves as it is configured until its agent has spoken, so soon; the others are asked in turn.
        delay = self._random.uniform(0, _JITTER * agent.interval / SECOND)
        while True:
            await asyncio.sleep(delay)
            begun = self._clock.now()
            line = await _ask(address, send, agent.timeout)
            now = self._clock.now()
            self._record(watch, line, now - begun, now)
            interval = agent.interval * (1 + _JITTER * self._random.uniform(-1, 1))
            # Start to start, so that slow answers do not stretch the interval.
            delay = max(0, interval - (now - begun)) / SECOND

    def _record(self, watch: _Watch, line: bytes | str, took: int, now: int) -> None:
        """Takes a line (bytes), or the reason why there is none."""
        target, before = watch.target, watch.last.get("ok")
        ok = isinstance(line, bytes)
        said = shown(line.decode("ascii", "replace")) if isinstance(line, bytes) else line
        watch.asked += 1
        watch.failures += not ok
        watch.last = {"ok": ok, "said": said, "at": now, "took": took}
        if not isinstance(line, bytes):
            if before is not False:
                log.warning(
                    "pool %s: the agent of endpoint %s does not answer, its last words stay in force: %s",
                    target.pool, target.address, said,
                )  # fmt: skip
            return
        if before is False:
            log.info("pool %s: the agent of endpoint %s answers again", target.pool, target.address)
        answer = parse(line)
        if answer.unknown and answer.unknown != watch.unknown:
            log.warning(
                "pool %s: the agent of endpoint %s says what is not understood, which is ignored: %s",
                target.pool, target.address, " ".join(answer.unknown),
            )  # fmt: skip
        watch.unknown = answer.unknown or watch.unknown
        try:
            self._on_answer(target, answer)
        except Exception:
            # The listener's fault must not stop the questions, which are what brings the endpoint back.
            log.exception("pool %s: endpoint %s: its agent's words were not handled", target.pool, target.address)


async def _ask(address: str, send: bytes, timeout_ns: int) -> bytes | str:
    """One question within its time: the line, or why there is none."""
    try:
        async with asyncio.timeout(timeout_ns / SECOND):
            return await ask(address, send)
    except CheckFailed as e:
        return str(e)
    except TimeoutError:
        return f"no answer within {timeout_ns / SECOND:g}s"
    except Exception as e:
        # A defect here must not end the asking: it counts as a failure and is logged in full.
        log.exception("the agent at %s could not be asked, in an unforeseen way", address)
        return f"{type(e).__name__}: {e}"
