"""What a watch makes of the answers of its source."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

import pytest
from discovery_pools import pool

from lb.clock import ManualClock
from lb.config.plan.plan import EndpointSpec
from lb.config.units import MILLISECOND, SECOND
from lb.discovery.source import DiscoveryError, Found, Source
from lb.discovery.watch import Watch

ONE, TWO, THREE = (EndpointSpec(f"10.0.0.{n}:1") for n in (1, 2, 3))


class Scripted(Source):
    """Gives what `answers` has, then waits for ever."""

    def __init__(self, *answers: Found | BaseException) -> None:
        super().__init__("models", None, pool())
        self.answers = list(answers)
        self.closed = 0

    async def look(self) -> Found:
        if not self.answers:
            await asyncio.Event().wait()
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def close(self) -> None:
        self.closed += 1


class NoChance(random.Random):
    def random(self) -> float:
        return 0.5


class Case:
    def __init__(self, *answers: Found | BaseException, limit: int = 10) -> None:
        self.clock = ManualClock(100 * SECOND)
        self.changes: list[tuple[EndpointSpec, ...] | None] = []
        self.source = Scripted(*answers)
        self.watch = Watch("script", self.source, limit, self._changed, self.clock, NoChance())

    def _changed(self) -> None:
        self.changes.append(self.watch.endpoints)

    def status(self) -> dict[str, Any]:
        return self.watch.status(self.clock.now())


def found(*endpoints: EndpointSpec, refresh: int | None = SECOND) -> Found:
    return Found(endpoints, refresh)


def test_an_answer_of_which_a_part_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    """Its endpoints are used, status says what is missing, and the log says so once."""
    case = Case()
    with caplog.at_level(logging.INFO, "tidegate.discovery"):
        for _ in range(2):
            assert case.watch.observe(Found((ONE,), 2 * SECOND, "AAAA: no answer"), case.clock.now()) is not None
            assert (case.watch.state, case.watch.endpoints) == ("partial", (ONE,))
            assert case.status()["error"] == "AAAA: no answer"
        case.watch.fail(DiscoveryError("gone"))
        assert (case.watch.state, case.watch.endpoints) == ("stale", (ONE,))
        case.watch.observe(Found((ONE,), 2 * SECOND, "AAAA: no answer"), case.clock.now())
        case.watch.observe(Found((ONE, TWO), 2 * SECOND), case.clock.now())
    assert (case.watch.state, case.watch.endpoints, case.status()["error"]) == ("current", (ONE, TWO), None)
    assert caplog.text.count("AAAA: no answer; what has answered is used") == 2
    assert caplog.text.count("answers again") == 1
    assert (case.status()["looks"], case.status()["failures"]) == (5, 1)


def test_before_anything_is_known() -> None:
    case = Case()
    assert case.watch.state == "waiting"
    assert case.status() == {
        "source": "script", "target": "", "state": "waiting", "endpoints": 0, "left_out": 0, "age_s": None,
        "next_look_s": None, "looks": 0, "failures": 0, "changes": 0, "error": None,
    }  # fmt: skip


def test_an_answer_counts_and_the_next_look_is_a_little_later_than_asked() -> None:
    case = Case()
    assert case.watch.observe(found(ONE, refresh=10 * SECOND), case.clock.now()) == 10.5 * SECOND
    case.clock.advance(3 * SECOND)
    assert case.watch.endpoints == (ONE,)
    assert (case.status()["state"], case.status()["age_s"], case.status()["changes"]) == ("current", 3.0, 0)
    assert case.watch.observe(found(ONE, refresh=None), case.clock.now()) is None
    assert case.watch.observe(found(ONE, refresh=0), case.clock.now()) == 10.5 * MILLISECOND


def test_changes_are_reported_once_and_said(caplog: pytest.LogCaptureFixture) -> None:
    case = Case()
    with caplog.at_level(logging.INFO):
        case.watch.observe(found(ONE, TWO), 1)
        case.watch.observe(found(ONE, TWO), 2)
        case.watch.observe(found(EndpointSpec(ONE.address, 5), THREE), 3)
    assert case.changes == [(ONE, TWO), (EndpointSpec(ONE.address, 5), THREE)]
    assert [record.message for record in caplog.records] == [
        "pool models: script: 2 endpoints; new: 10.0.0.1:1, 10.0.0.2:1",
        "pool models: script: 2 endpoints; new: 10.0.0.3:1; gone: 10.0.0.2:1; changed: 10.0.0.1:1",
    ]


def test_failures_keep_the_last_good_set_and_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    case = Case()
    case.watch.observe(found(ONE), case.clock.now())
    caplog.clear()  # others may have made the logger more talkative
    with caplog.at_level(logging.INFO):
        pauses = [case.watch.fail(DiscoveryError("gone")) for _ in range(7)]
        assert case.watch.fail(DiscoveryError("gone", 7 * SECOND)) == 7.35 * SECOND
        assert (case.watch.state, case.watch.endpoints, case.status()["error"]) == ("stale", (ONE,), "gone")
        case.watch.observe(found(ONE), case.clock.now())
    assert [pause / SECOND / 1.05 for pause in pauses] == pytest.approx([1, 2, 4, 8, 16, 30, 30])
    assert case.watch.fail(DiscoveryError("gone")) == 1.05 * SECOND, "a good answer ends the row"
    assert [record.message for record in caplog.records] == [
        "pool models: script: gone; its 1 endpoints stay",
        "pool models: script answers again",
        "pool models: script: gone; its 1 endpoints stay",
    ]
    assert case.changes == [(ONE,)]
    assert (case.status()["looks"], case.status()["failures"]) == (11, 9)


def test_none_at_all_is_an_answer() -> None:
    case = Case()
    case.watch.observe(found(ONE), 1)
    case.watch.observe(found(), 2)
    assert (case.changes, case.watch.state) == ([(ONE,), ()], "current")


def test_more_than_the_limit_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    case = Case(limit=2)
    case.watch.observe(found(ONE, TWO, THREE), 1)
    case.watch.observe(found(ONE, TWO, THREE), 2)
    assert case.watch.endpoints == (ONE, TWO)
    assert case.status()["left_out"] == 1
    assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == [
        "pool models: script gives 3 endpoints, of which max_endpoints (2) leaves 1 out"
    ]


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (EndpointSpec("a.test:1"), "a.test:1 is a name, not an address"),
        (EndpointSpec("nonsense"), "'nonsense' has no port"),
        (EndpointSpec("[FD00::1]:1"), "is not spelled as addresses are"),
        (EndpointSpec("10.0.0.1:0"), "port 0"),
        (EndpointSpec("10.0.0.1:1", 1001), "a weight or a limit"),
        (EndpointSpec("10.0.0.1:1", priority=-1), "a priority below 0"),
        (EndpointSpec(ONE.address, 2), "10.0.0.1:1 is endpoint 0 already"),
    ],
)
def test_what_cannot_be_an_endpoint_is_refused_as_a_whole(spec: EndpointSpec, problem: str) -> None:
    case = Case()
    case.watch.observe(found(ONE), 1)
    with pytest.raises(DiscoveryError, match=problem.replace("[", r"\[")):
        case.watch.observe(found(ONE, spec), 2)
    assert case.watch.endpoints == (ONE,)


async def test_runs_until_it_is_ended_whatever_its_source_raises(caplog: pytest.LogCaptureFixture) -> None:
    quick = DiscoveryError("quick", 10 * MILLISECOND)
    case = Case(quick, found(ONE, refresh=0), quick, found(ONE, TWO, refresh=0), ZeroDivisionError("defect"))
    task = asyncio.create_task(case.watch.run())
    await asyncio.wait_for(case.watch.wait_known(), 10)
    while case.status()["looks"] < 5:
        await asyncio.sleep(0.01)
    assert case.changes == [(ONE,), (ONE, TWO)]
    assert (case.watch.state, case.status()["error"]) == ("stale", "ZeroDivisionError: defect")
    assert case.status()["next_look_s"] == 1.05
    assert "failed in an unforeseen way" in caplog.text
    assert case.source.closed == 0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert case.source.closed == 1


class Panic(BaseException):
    """As an extension in another language raises it."""


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, Panic])
async def test_a_source_that_would_end_the_program_has_failed(kind: type[BaseException]) -> None:
    case = Case(found(ONE, refresh=0), kind("no such service"))
    await case.watch._look()
    await case.watch._look()
    assert (case.watch.state, case.status()["error"]) == ("stale", f"{kind.__name__}: no such service")
    assert case.watch.endpoints == (ONE,)


async def test_so_has_one_that_describes_or_closes_itself_like_that(caplog: pytest.LogCaptureFixture) -> None:
    class Ending(Scripted):
        def describe(self) -> str:
            raise SystemExit("no words")

        async def close(self) -> None:
            raise SystemExit("not closed")

    case = Case()
    case.watch.source = Ending(found(ONE, refresh=0))
    task = asyncio.create_task(case.watch.run())
    await asyncio.wait_for(case.watch.wait_known(), 10)
    assert case.status()["target"] == "(SystemExit: no words)"
    task.cancel()
    (ended,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError)
    assert "script (SystemExit: no words) could not be closed" in caplog.text


async def test_goes_on_when_what_its_source_waited_for_was_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    case = Case(found(ONE, refresh=0), asyncio.CancelledError())
    task = asyncio.create_task(case.watch.run())
    while case.status()["failures"] < 1:
        assert not task.done()
        await asyncio.sleep(0.01)
    assert (case.watch.state, case.status()["error"]) == ("stale", "CancelledError")
    assert case.status()["next_look_s"] == 1.05
    assert "failed in an unforeseen way" in caplog.text
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (task.cancelled(), case.source.closed) == (True, 1)


async def test_ends_by_itself_when_the_answer_stays_for_ever() -> None:
    case = Case(found(ONE, refresh=None))
    await asyncio.wait_for(case.watch.run(), 10)
    assert (case.watch.endpoints, case.source.closed, case.status()["next_look_s"]) == ((ONE,), 1, None)
