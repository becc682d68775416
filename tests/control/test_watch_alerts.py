"""Which problems are told when, and how their messages reach receivers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, get_args

import orjson
import pytest

from lb.config.schema.alerts import AlertsConfig, Condition
from lb.control.watch import receivers
from lb.control.watch.alerts import Alerts
from lb.control.watch.problems import CONDITIONS, Problem, Severity
from lb.control.watch.receivers import Receivers

SECOND = 1_000_000_000


def problem(name: str = "endpoint_down", severity: Severity = "warning", endpoint: str = "a:1") -> Problem:
    return Problem(name, severity, {"pool": "p", "endpoint": endpoint}, "Connection refused")


class Daemon:
    """Problems over time: `at` gives what is told then, by name and endpoint."""

    def __init__(self, **options: Any) -> None:
        self.alerts = Alerts("host")
        self.options = AlertsConfig(urls=["http://hook/"], **options)
        self.message: dict[str, Any] | None = None

    def at(self, seconds: float, *problems: Problem) -> tuple[list[str], list[str]]:
        now = int(seconds * SECOND)
        self.message = self.alerts.decide(problems, self.options, now, 1000 + seconds)
        message = self.message or {"firing": (), "resolved": ()}
        firing, resolved = ([row["subject"]["endpoint"] for row in message[key]] for key in ("firing", "resolved"))
        return firing, resolved


NOTHING: tuple[list[str], list[str]] = ([], [])


def test_the_configuration_knows_every_condition() -> None:
    assert set(get_args(Condition)) == set(CONDITIONS)


def test_what_lasts_is_told_once_and_its_end_once_it_stays_away() -> None:
    daemon = Daemon()
    assert daemon.at(0, problem()) == NOTHING
    assert daemon.at(29, problem()) == NOTHING
    assert daemon.at(30, problem()) == (["a:1"], [])
    assert daemon.alerts.firing == 1
    assert daemon.at(35, problem()) == NOTHING
    assert daemon.at(100) == NOTHING
    assert daemon.at(129) == NOTHING
    assert daemon.at(130) == ([], ["a:1"])
    assert daemon.at(200) == NOTHING
    assert daemon.alerts.firing == 0


def test_what_comes_and_goes_is_one_problem() -> None:
    daemon = Daemon()
    daemon.at(0, problem())
    daemon.at(30, problem())
    for second in range(40, 400, 20):
        assert daemon.at(second) == NOTHING
        assert daemon.at(second + 10, problem()) == NOTHING


def test_what_is_short_is_not_told() -> None:
    daemon = Daemon()
    for second in range(0, 400, 40):
        assert daemon.at(second, problem()) == NOTHING
        assert daemon.at(second + 20) == NOTHING


def test_what_goes_on_is_told_again() -> None:
    daemon = Daemon(after=0, repeat=100 * SECOND)
    assert daemon.at(0, problem()) == (["a:1"], [])
    assert daemon.at(99, problem()) == NOTHING
    assert daemon.at(100, problem()) == (["a:1"], [])
    assert daemon.message is not None
    assert daemon.message["firing"][0]["since"] == 1000


def test_what_becomes_worse_is_news_and_what_becomes_better_is_none() -> None:
    daemon = Daemon(after=0)
    daemon.at(0, problem())
    assert daemon.at(5, problem(severity="critical")) == (["a:1"], [])
    assert daemon.at(10, problem()) == NOTHING


def test_only_the_wanted_conditions_are_told() -> None:
    daemon = Daemon(after=0, conditions=["jobs_dead"])
    assert daemon.at(0, problem()) == NOTHING
    assert daemon.at(0, problem("jobs_dead")) == (["a:1"], [])


def test_a_message_says_all_and_its_text_the_worst() -> None:
    daemon = Daemon(after=0)
    many = [problem(endpoint=f"e:{n}") for n in range(60)]
    firing, _ = daemon.at(0, *many, problem("pool_without_endpoint", "critical", endpoint="worst"))
    assert (firing[0], len(firing)) == ("worst", 50)
    message = daemon.message
    assert message is not None
    assert (message["type"], message["daemon"], message["left_out"]) == ("tidegate.alert", "host", 11)
    assert message["verdict"] == "failing"
    lines = message["text"].splitlines()
    assert lines[:2] == [
        "Tidegate on host",
        "CRITICAL: pool without endpoint (pool p, endpoint worst) - Connection refused",
    ]
    assert lines[-1] == "and 51 more"
    assert set(message["firing"][0]) == {"name", "severity", "subject", "text", "since"}
    daemon.at(10, *many[1:], problem("pool_without_endpoint", "critical", endpoint="worst"))
    assert daemon.message is not None
    assert daemon.message["text"].splitlines()[1:] == [
        "resolved: endpoint down (pool p, endpoint e:0) - Connection refused"
    ]


class Hooks:
    """Answers with the next of `statuses`, then with 200; `got` are (url, webhook-id, text)."""

    def __init__(self) -> None:
        self.statuses: dict[str, Iterator[int]] = {}
        self.got: list[tuple[str, str, str]] = []
        self.headers: list[dict[str, str]] = []

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        self.got.append((url, headers["webhook-id"], orjson.loads(body)["text"]))
        self.headers.append(headers)
        return next(self.statuses.get(url, iter(())), 200)


async def settle(waiting: Receivers) -> None:
    async with asyncio.timeout(20):
        while waiting.waiting:
            await asyncio.sleep(0)


async def test_each_receiver_gets_each_message_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receivers, "PAUSES", (0.0,) * 3)
    hooks = Hooks()
    hooks.statuses["b"] = iter([0, 500])
    told = Receivers(hooks.post)
    await told.apply(["a", "b"], None)
    for text in ("one", "two"):
        told.tell({"text": text})
    await settle(told)
    assert [text for url, _, text in hooks.got if url == "a"] == ["one", "two"]
    assert [text for url, _, text in hooks.got if url == "b"] == ["one", "one", "one", "two"]
    assert len({number for url, number, text in hooks.got if url == "b" and text == "one"}) == 1
    assert told.told == {"delivered": 4, "failed": 2}
    assert "webhook-signature" not in hooks.headers[0]
    await told.close()


async def test_a_message_is_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receivers, "PAUSES", (0.0,) * 3)
    hooks = Hooks()
    hooks.statuses["a"] = iter([500] * 4 + [410])
    told = Receivers(hooks.post)
    await told.apply(["a"], None)
    for text in ("lost", "gone", "fine"):
        told.tell({"text": text})
    await settle(told)
    assert [text for _, _, text in hooks.got] == ["lost"] * 4 + ["gone", "fine"]
    assert told.told == {"failed": 3, "given_up": 2, "delivered": 1}
    await told.close()


async def test_a_receiver_that_is_away_holds_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receivers, "PAUSES", (3600.0,))
    hooks = Hooks()
    hooks.statuses["a"] = iter([0] * 9)
    told = Receivers(hooks.post)
    await told.apply(["a"], None)
    told.tell({"text": "0"})
    while not hooks.got:
        await asyncio.sleep(0)
    for number in range(1, 103):
        told.tell({"text": str(number)})
    assert told.waiting == 100
    assert told.told["dropped"] == 3
    await told.apply(["b"], None)  # a reload that no longer has it
    assert told.waiting == 0
    told.tell({"text": "new"})
    await settle(told)
    assert hooks.got[-1][0] == "b"
    await told.close()
