"""Canaries: what proves that one is worse, what follows, and what is kept."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from lb.clock import Clock
from lb.config.schema.file import Config
from lb.config.schema.routes.canary import CanaryConfig
from lb.control.canary.analysis import BUCKETS, Compared, Observed, Tally, bucket_of, judge
from lb.control.canary.evidence import ALPHA, lower_bound, upper_bound
from lb.control.canary.keeper import Canaries
from lb.control.canary.rollout import Rollout
from lb.control.servers.traffic import Counts, EndpointCounts
from lb.errors import ConfigError
from lb.shared.words import BOUNDS_US

SECOND = 1_000_000_000
WALL = 1_700_000_000.0


def tally(requests: int, errors: int = 0, us: int = 1_000) -> Tally:
    durations = [0] * BUCKETS
    durations[BOUNDS_US.index(us)] = requests
    return Tally(requests, errors, tuple(durations))


def limits(**given: Any) -> CanaryConfig:
    return CanaryConfig.model_validate({"pool": "next", "steps": [1, 50], **given})


NONE = Tally()

# Evidence.


def test_bounds_enclose_what_was_seen() -> None:
    assert (lower_bound(0, 0), upper_bound(0, 0)) == (0.0, 1.0)
    assert (lower_bound(0, 50), upper_bound(50, 50)) == (0.0, 1.0)
    widths = []
    for count in (10, 100, 1000, 10_000):
        found = count // 10
        assert lower_bound(found, count) < 0.1 < upper_bound(found, count)
        widths.append(upper_bound(found, count) - lower_bound(found, count))
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.03
    # Solved by hand for all of n: mixture/likelihood = B(n + 1/2, 1/2) / (pi q^n) = 1/alpha; of 1, B = pi/2.
    assert lower_bound(1, 1) == pytest.approx(ALPHA / 2, rel=1e-6)
    with pytest.raises(ValueError, match="3 of 2"):
        lower_bound(3, 2)


def test_looking_after_each_answer_does_not_prove_what_is_not_so() -> None:
    chance = random.Random(7)
    wrong = 0
    for _ in range(200):
        found = 0
        for count in range(1, 301):
            found += chance.random() < 0.05
            if lower_bound(found, count) > 0.05:
                wrong += 1
                break
    assert wrong <= 2  # of 200 at 0.1 % each; a test made for one look (5 %) is wrong 60 times


@pytest.mark.parametrize(
    ("canary", "baseline", "found", "proven"),
    [
        (tally(1000, 10), tally(10_000, 100), None, False),
        (tally(1000, 19), tally(10_000, 100), None, False),  # within a percentage point
        (tally(100, 4), tally(10_000, 100), "errors", False),
        (tally(100, 30), tally(10_000, 100), "errors", True),
        (tally(5, 5), tally(500, 0), "errors", True),
        (tally(1000, 300), tally(10_000, 3000), None, False),  # both have an outage
        (tally(1000, 300), tally(3, 0), "errors", False),  # of the baseline too little is known
        (tally(1000, 300), tally(0), "errors", True),
        (tally(100, us=2_500_000), tally(1000, us=1_000), "latency", True),
        (tally(100, us=1_000), tally(1000, us=2_500_000), None, False),
        (tally(100, us=2_000), tally(1000, us=1_000), None, False),  # 1.5 times, rounded up to the next bucket
        (tally(100, us=3_000), tally(1000, us=1_000), "latency", True),
        (tally(100, us=3_000), tally(99, us=1_000), None, False),  # too few to compare with
        (tally(2, us=3_000), tally(1000, us=1_000), "latency", False),
    ],
)
def test_what_is_worse(canary: Tally, baseline: Tally, found: str | None, proven: bool) -> None:
    findings = judge(Observed(canary, baseline), limits(), Tally())
    assert [(f.what, f.proven) for f in findings] == ([] if found is None else [(found, proven)])
    assert all(f.text for f in findings)


def test_answers_that_differ() -> None:
    def found(answers: int, different: int, **given: Any) -> list[tuple[str, bool]]:
        seen = Observed(compared=Compared(answers, different))
        return [(f.what, f.proven) for f in judge(seen, limits(**given), Tally())]

    assert found(100, 100) == []
    assert found(0, 0, max_difference=0) == []
    assert found(1000, 10, max_difference=1) == []
    assert found(1000, 15, max_difference=1) == [("difference", False)]
    assert found(100, 20, max_difference=1) == [("difference", True)]
    assert found(1000, 1, max_difference=0) == [("difference", True)]  # of none allowed, one is too many
    assert Compared(5, 1).since(Compared(9, 2)) == Compared()
    assert Compared(9, 2).since(Compared(5, 1)) == Compared(4, 1)


def test_latency_by_its_quantile_and_beyond_the_histogram() -> None:
    some = [0] * BUCKETS
    some[3], some[10] = 90, 10
    assert (bucket_of(some, 0.9), bucket_of(some, 0.95), bucket_of([0] * BUCKETS, 0.5)) == (3, 10, BUCKETS - 1)
    slow = [0] * BUCKETS
    slow[-1] = 1000
    beyond = Tally(1000, 0, tuple(slow))
    assert not judge(Observed(beyond, beyond), limits(), Tally())
    assert not judge(Observed(beyond, tally(1000)), limits(max_latency_ratio=None), Tally())


# The course.


class Course:
    """A rollout that is looked at each second."""

    def __init__(self, rollout: Rollout) -> None:
        self.rollout, self.now = rollout, 0

    def look(self, canary: Tally = NONE, baseline: Tally = NONE, usable: bool = True, times: int = 1) -> str:
        for _ in range(times):
            self.now += SECOND
            self.rollout.look(Observed(canary, baseline), usable, self.now, WALL + self.now / SECOND)
        return f"{self.rollout.phase} {self.rollout.percent:g}"


def course(**given: Any) -> Course:
    return Course(Rollout(limits(**{"interval": 10 * SECOND, **given}), "old", None, WALL))


def test_step_by_step_to_the_promotion() -> None:
    it = course()
    assert it.look(usable=False, times=5) == "waiting 0"
    assert it.look() == "progressing 1"
    assert it.look(tally(20), tally(2000), times=9) == "progressing 1"
    assert it.look(tally(20), tally(2000)) == "progressing 50"
    assert it.look(tally(20), tally(20), times=10) == "promoted 100"
    assert it.look(tally(20, 20), tally(0), times=10) == "promoted 100"  # it is the baseline now
    assert [entry.percent for entry in it.rollout.history] == [0, 1, 50, 100]


def test_few_answers_prolong_a_step() -> None:
    it = course()
    it.look()
    assert it.look(tally(2), tally(200), times=49) == "progressing 1"
    assert it.rollout.describe()["waits_for"] == "2 more answers"
    assert it.look(tally(2), tally(200)) == "progressing 50"


def test_a_doubtful_canary_does_not_go_on_until_it_is_sure() -> None:
    it = course()
    it.look()
    assert it.look(tally(10, 0), tally(1000), times=9) == "progressing 1"
    assert it.look(tally(10, 3), tally(1000)) == "progressing 1"  # 3 of 100, of 1 allowed
    assert "3 % of 100 of its answers failed" in it.rollout.describe()["waits_for"]
    assert it.look(tally(50), tally(1000), times=5) == "progressing 1"
    assert it.look(tally(50), tally(1000), times=5) == "progressing 50"


def test_a_bad_time_after_a_long_good_one_is_seen() -> None:
    it = course(min_requests=100_000)
    it.look()
    assert it.look(tally(10), tally(1000), times=1000) == "progressing 1"
    assert it.look(tally(10, 3), tally(1000), times=5) == "aborted 0"  # 15 of 10,050, but of the last 60


def test_taken_back_for_errors_at_once_and_retried() -> None:
    it = course()
    it.look()
    assert it.look(tally(10, 10), tally(990)) == "aborted 0"
    assert it.rollout.history[-1].reason == "100 % of 10 of its answers failed, 0 % of 990 of the baseline's"
    assert it.look(tally(0), tally(1000), times=100) == "aborted 0"
    assert not it.rollout.act("abort", it.now, WALL, "anna")
    assert it.rollout.act("retry", it.now, WALL, "anna")
    assert it.look() == "progressing 1"
    assert it.rollout.act("promote", it.now, WALL, "anna")
    assert it.rollout.history[-1].reason == "promote by anna"


def test_a_canary_whose_endpoints_are_gone_is_taken_back() -> None:
    it = course()
    it.look()
    assert it.look(usable=False) == "aborted 0"


def test_the_last_step_is_compared_with_the_baseline_of_before() -> None:
    it = course(steps=[50, 100])
    it.look()
    assert it.look(tally(100, 20), tally(100, 20), times=10) == "progressing 100"
    assert it.look(tally(200, 40), times=9) == "progressing 100"  # an outage of both, as it was
    assert it.look(tally(200, 150), times=5) == "aborted 0"


def test_other_steps_and_a_restart_go_on() -> None:
    it = course()
    it.look()
    it.look(tally(20), tally(2000), times=10)
    assert it.rollout.percent == 50
    again = Rollout(limits(), "old", it.rollout.kept(), WALL)
    assert (again.phase, again.step) == ("waiting", 1)
    assert Course(again).look() == "progressing 50"
    assert Rollout(limits(), "older", it.rollout.kept(), WALL).step == 0
    assert Rollout(limits(pool="other"), "old", it.rollout.kept(), WALL).step == 0
    it.rollout.configure(limits(steps=[10, 20, 30, 90]))
    assert it.rollout.percent == 30
    for _ in range(1000):
        it.rollout.act("abort", it.now, WALL, "x")
        it.rollout.act("retry", it.now, WALL, "x")
    assert len(it.rollout.history) == 100


# The keeper.


class Hand(Clock):
    def __init__(self) -> None:
        self.time = 0

    def now(self) -> int:
        return self.time


def config(**route: Any) -> Config:
    canary = {"pool": "next", "interval": "1s", "steps": [10, 50], "min_requests": 10}
    routes = [{"name": "chat", "pool": "old", "canary": {**canary, **route}}]
    pools = {name: {"protocol": "http", "endpoints": ["127.0.0.1:1"]} for name in ("old", "next", "other")}
    return Config.model_validate(
        {"listeners": {"web": {"bind": "127.0.0.1:0", "protocol": "http", "routes": routes}}, "pools": pools}
    )


class World:
    """Pools whose counters grow at each look."""

    def __init__(self, folder: Path | None) -> None:
        self.clock, self.told, self.usable, self.over = Hand(), 0, True, 0
        self.failing: set[str] = set()
        self.different = 0
        self.failed = dict.fromkeys(("old", "next", "other"), 0)
        self.canaries = Canaries(
            folder, self.counts, lambda pool: self.usable, self.changed, self.compared, self.clock, lambda: WALL
        )

    def compared(self, route: str) -> tuple[int, int]:
        assert route == "chat"
        return self.over, self.different

    def changed(self) -> None:
        self.told += 1

    def counts(self, pool: str) -> Counts:
        durations = tuple(self.over if i == 4 else 0 for i in range(BUCKETS))
        endpoint = EndpointCounts(durations, self.failed[pool], 0, 0)
        return Counts(self.over, 0, 0, 0, {"a": endpoint})

    def look(self, times: int = 1) -> str:
        for _ in range(times):
            self.clock.time += SECOND
            self.over += 100
            for pool in self.failing:
                self.failed[pool] += 100
            self.canaries.look()
        row = self.canaries.status()[0]
        return f"{row['phase']} {row['percent']:g}"


async def test_kept_over_restarts_and_reloads(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.canaries.load()
    file = config()
    route = file.listeners["web"].routes[0]
    assert world.canaries.share("chat", route) == 0
    world.canaries.follow(file)
    assert (world.look(), world.told) == ("progressing 10", 1)
    assert (world.look(), world.told) == ("progressing 50", 2)
    assert world.canaries.share("chat", route) == 50
    assert world.canaries.share("chat/job", route) == 50  # of its jobs
    await world.canaries.save()
    assert world.look() == "promoted 100"
    await world.canaries.save()

    handed = world.canaries.hand_over()
    after = World(None)  # by an upgrade, which needs no file
    after.canaries.load(handed)
    after.canaries.follow(file)
    assert after.canaries.history() == world.canaries.history()
    after.canaries.load(b"{")  # nothing that can be used: as a first start
    assert after.canaries.share("chat", route) == 100

    world = World(tmp_path)
    world.canaries.load()
    assert world.canaries.share("chat", route) == 100  # also of the first plan, before it is in force
    assert world.canaries.share("chat", config(pool="other").listeners["web"].routes[0]) == 0
    world.canaries.follow(file)
    assert world.look() == "promoted 100"
    world.canaries.follow(config(pool="other"))
    assert world.look() == "progressing 10"
    world.failing.add("other")
    assert world.look() == "aborted 0"
    with pytest.raises(ConfigError, match="there is no route 'cat' with a canary; did you mean chat"):
        await world.canaries.act("cat", "retry", "anna")
    assert (await world.canaries.act("chat", "retry", "anna", dry_run=True))[1]
    assert world.look() == "aborted 0"
    assert (await world.canaries.act("chat", "retry", "anna"))[0]["phase"] == "waiting"
    assert (tmp_path / "canaries.json").stat().st_mode & 0o777 == 0o600


async def test_a_damaged_file_is_told_and_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "canaries.json").write_text('{"chat": {"phase": "promoted"')
    world = World(tmp_path)
    world.canaries.load()
    assert "they begin anew" in caplog.text
    world.canaries.follow(config())
    assert world.look() == "progressing 10"
    await world.canaries.save()
    gone = World(tmp_path / "absent")
    gone.canaries.load()
    gone.canaries.follow(config())
    await gone.canaries.save()
    await gone.canaries.save()
    assert caplog.text.count("cannot be written") == 1
