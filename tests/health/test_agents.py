"""Agents are asked over real connections; what does not answer changes nothing."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from agent_server import Agent, agent
from waiting import until

from lb.clock import MonotonicClock
from lb.config.schema.file import AgentConfig
from lb.health.agent import MAX_LINE, Answer
from lb.health.agents import AgentMonitor, AgentTarget


class Rig:
    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.gone: list[AgentTarget] = []
        self.monitor = AgentMonitor(
            lambda _, answer: self.answers.append(answer), self.gone.append, MonotonicClock(), random.Random(1)
        )

    def ask(self, port: int, slot: int = 0, address: str = "127.0.0.1:1", **agent: Any) -> AgentTarget:
        config = AgentConfig(**{"port": port, "interval": "10ms", "timeout": "5s", **agent})
        target = AgentTarget("pool", address, slot, config)
        self.monitor.update([target])
        return target

    def row(self) -> dict[str, Any]:
        return self.monitor.status()["pool"]["127.0.0.1:1"]

    async def said(self, count: int = 1) -> Any:
        """What the `count`-th answer or failure from now on says."""
        asked = self.row()["asked"] + count
        await until(lambda: self.row()["asked"] >= asked)
        return self.row()["last"]["said"]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    one = Rig()
    yield one
    await one.monitor.close()


@pytest.fixture
async def server() -> AsyncIterator[Agent]:
    async with agent() as one:
        yield one


@pytest.mark.parametrize(
    ("pieces", "hold", "answer"),
    [
        ([b"75% ready up\n"], False, Answer("up", "", "ready", 75)),
        ([b"drain\r\nup\n"], True, Answer(admin="drain")),  # one line, and it need not close
        ([b"maint"], False, Answer(admin="maint")),  # the end of the connection is the end of the line
        ([b"do", b"wn #", b"disk", b"\r"], True, Answer("down", "disk")),
        ([b"\n"], False, Answer()),
        ([b"hello up world\n"], False, Answer("up", unknown=("hello", "world"))),
        ([b"up #" + b"x" * (MAX_LINE - 5) + b"\n"], False, Answer("up", "x" * 200)),
    ],
)
async def test_a_line(rig: Rig, server: Agent, pieces: list[bytes], hold: bool, answer: Answer) -> None:
    server.pieces, server.hold, server.pause = pieces, hold, 0.01
    rig.ask(server.port)
    await until(lambda: rig.answers)
    assert rig.answers[0] == answer
    assert rig.row()["failures"] == 0


@pytest.mark.parametrize(
    ("pieces", "hold", "why"),
    [
        ([], False, "connection closed without an answer"),
        ([], True, "no answer within 0.05s"),
        ([b"up"], True, "no answer within 0.05s"),
        ([b"x" * 3 * MAX_LINE], True, f"no end of the line within {MAX_LINE} bytes"),
    ],
)
async def test_no_line_is_no_answer(rig: Rig, server: Agent, pieces: list[bytes], hold: bool, why: str) -> None:
    server.pieces, server.hold = pieces, hold
    rig.ask(server.port, timeout="50ms" if hold and len(b"".join(pieces)) < MAX_LINE else "5s")
    await until(lambda: rig.monitor.status()["pool"]["127.0.0.1:1"]["failures"] >= 2)
    assert rig.row()["last"]["said"] == why
    assert rig.answers == []


async def test_nobody_there_is_logged_once_and_the_return_too(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with agent() as server:
        server.say("up")
        port = server.port
    rig.ask(port)
    await until(lambda: rig.row()["failures"] >= 3)
    assert rig.answers == []
    assert [r.getMessage() for r in caplog.records] == [
        "pool pool: the agent of endpoint 127.0.0.1:1 does not answer, its last words stay in force: Connection refused"
    ]
    caplog.clear()
    async with agent() as server:
        server.say("up")
        rig.ask(server.port)
        await until(lambda: rig.answers)
        assert caplog.messages[0] == "pool pool: the agent of endpoint 127.0.0.1:1 answers again"


async def test_unknown_words_are_logged_once(rig: Rig, server: Agent, caplog: pytest.LogCaptureFixture) -> None:
    server.say("up sideways")
    rig.ask(server.port)
    await until(lambda: len(rig.answers) >= 3)
    assert caplog.messages == [
        "pool pool: the agent of endpoint 127.0.0.1:1 says what is not understood, which is ignored: sideways"
    ]


async def test_what_status_shows_of_a_line_is_fit_for_a_terminal(rig: Rig, server: Agent) -> None:
    server.pieces = (b"up #\x1b[31mred\xff\x00\n",)
    rig.ask(server.port)
    await until(lambda: rig.answers)
    assert rig.row()["last"]["said"] == "up #?[31mred\ufffd?"
    assert rig.answers[0].description == "?[31mred\ufffd?"


async def test_what_is_sent_arrives_as_it_is(rig: Rig, server: Agent) -> None:
    server.reads = 5
    server.say("up")
    rig.ask(server.port, send="a\x00\xff\r\n")
    await until(lambda: rig.answers)
    assert server.asked[0] == b"a\x00\xff\r\n"


async def test_an_agent_that_answers_without_reading(rig: Rig, server: Agent) -> None:
    server.say("drain")
    rig.ask(server.port, send="x" * 1200)
    await until(lambda: len(rig.answers) >= 5)
    assert set(rig.answers) == {Answer(admin="drain")}


async def test_the_host_may_be_another(rig: Rig) -> None:
    async with agent("::1") as server:
        server.say("50%")
        rig.ask(server.port, host="::1")
        await until(lambda: rig.answers)


async def test_what_is_known_survives_new_settings_and_ends_with_the_endpoint(rig: Rig, server: Agent) -> None:
    server.say("up")
    rig.ask(server.port)
    await until(lambda: len(rig.answers) >= 2)
    asked = rig.row()["asked"]
    target = rig.ask(server.port, interval="20ms")
    assert rig.row()["asked"] >= asked
    assert rig.gone == []
    await rig.said()
    rig.monitor.update([])
    assert rig.gone == [target]
    assert rig.monitor.status() == {}
    connections = server.connections
    await asyncio.sleep(0.1)
    assert server.connections <= connections + 1  # one may have been under way


async def test_a_listener_that_fails_does_not_end_the_asking(server: Agent, caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def broken(target: AgentTarget, answer: Answer) -> None:
        calls.append(answer)
        raise RuntimeError("broken")

    monitor = AgentMonitor(broken, lambda _: None, MonotonicClock())
    server.say("up")
    monitor.update([AgentTarget("pool", "127.0.0.1:1", 0, AgentConfig(port=server.port, interval="10ms"))])
    await until(lambda: len(calls) >= 2)
    await monitor.close()
    assert "its agent's words were not handled" in caplog.text
