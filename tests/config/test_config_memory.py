"""A load that takes over what did not change gives what a fresh one gives."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_config_compile import Numbers

from lb.config.load import load
from lb.config.memory import FileMemory, Memory
from lb.config.plan.compile import PlanMemory, compile_plan
from lb.config.plan.plan import Plan
from lb.config.plan.wire import Packed
from lb.config.schema.file import Config
from lb.errors import ConfigError

POOL = {"protocol": "http", "endpoints": ["10.0.0.1:80"]}


def start() -> dict[str, Any]:
    routes = [{"match": {"path": {"prefix": f"/{i}/"}}, "pool": "a"} for i in range(12)]
    return {
        "listeners": {"web": {"bind": "127.0.0.1:0", "protocol": "http", "routes": routes}},
        "pools": {"a": POOL, "b": {**POOL, "endpoints": ["10.0.0.2:80", "10.0.0.3:80"]}},
    }


def edit(data: dict[str, Any], chance: random.Random) -> None:
    """One random change; some make the file wrong."""
    routes = data["listeners"]["web"]["routes"]
    route = chance.choice(routes)
    match chance.randrange(16):
        case 0:
            routes.insert(
                chance.randrange(len(routes)),
                {"match": {"host": f"h{chance.random()}.org"}, "pool": chance.choice("ab")},
            )
        case 1:
            routes.remove(route)
            routes.append({"pool": "a", "match": {"path": {"exact": f"/{chance.random()}"}}})
        case 2:
            chance.shuffle(routes)
        case 3:
            route["match"] = {"path": {"prefix": f"/{chance.randrange(40)}/"}, "method": chance.choice(["GET", "POST"])}
        case 4:
            route["timeout"] = chance.choice(["1s", "2s", 5])  # a number without its unit is a mistake
        case 5:
            route["expose_endpoint"] = chance.choice([True, False, 1, 0])  # so is a number
        case 6:
            route["name"] = f"n{chance.randrange(6)}"  # or a name that is taken
        case 7:
            data["pools"] = dict(sorted(data["pools"].items(), reverse=chance.random() < 0.5))
        case 8:
            data["pools"]["b"] = {**data["pools"]["b"], "protocol": chance.choice(["http", "oip", "http2"])}
        case 9:
            data["cache"] = {"ttl": chance.choice(["1s", "5s"])}
        case 10:
            data.pop("cache", None)
        case 11:
            route["cache"] = chance.choice([True, False])
        case 12:  # a few of these are wrong
            route["match"] = {"host": chance.choice(["A.example.org", "*.b.org", "", "no host", 7, None])}
        case 13:
            path = chance.choice(["/p", "p", "", None, ["/p"]])
            route["match"] = {"path": {chance.choice(["exact", "prefix", "template", "regex"]): path}}
        case 14:
            route.pop("pool", None)
            route.update(chance.choice([{"pool": ""}, {"pool": "c"}, {"pools": [{"pool": "a"}]}, {"redirect": {}}]))
        case 15:
            change = chance.choice(["prefix", "path"])
            route["match"] = {"path": {"prefix": f"/{chance.choice('xyz')}/"}}
            route[chance.choice(["rewrite", "redirect"])] = {change: "/new/"}


class Master:
    """Loads, compiles and packs one file after the other, as the daemon's does; with a memory or without."""

    def __init__(self, remembers: bool) -> None:
        self.remembers = remembers
        self.numbers = Numbers()
        self.forget()

    def forget(self) -> None:
        self.file, self.plans = FileMemory() if self.remembers else None, PlanMemory()

    def outcome(self, path: Path) -> tuple[Config, Plan, dict[str, Any]] | list[str]:
        if not self.remembers:
            self.forget()
        try:
            config = load(path, memory=self.file)
        except ConfigError as error:
            return error.problems
        plan = compile_plan(config, generation=1, workers=1, allocator=self.numbers, managed={}, memory=self.plans)
        return config, plan, plan.to_wire()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_reloads_with_a_memory_and_fresh_loads_have_the_same_outcome(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    path = tmp_path / "t.yaml"
    remembering, fresh = Master(True), Master(False)
    good = start()
    right = 0
    for _ in range(25):
        data = yaml.safe_load(yaml.safe_dump(good))
        for _ in range(chance.randrange(3)):
            edit(data, chance)
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        expected = fresh.outcome(path)
        assert remembering.outcome(path) == expected
        if not isinstance(expected, list):
            good, right = data, right + 1
    assert right > 5


def test_what_did_not_change_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    data = start()
    master = Master(True)
    plans = []
    for prefix in ("/3/", "/changed/"):
        data["listeners"]["web"]["routes"][3]["match"]["path"]["prefix"] = prefix
        path.write_text(yaml.safe_dump(data))
        found = master.outcome(path)
        assert isinstance(found, tuple)
        plans.append(found)
    (config, plan, _), (other_config, other_plan, _) = plans
    packed, other_packed = plan.listeners[0].routes, other_plan.listeners[0].routes
    assert isinstance(packed, Packed)
    assert isinstance(other_packed, Packed)
    for made, others in (
        (config.listeners["web"].routes, other_config.listeners["web"].routes),
        (packed.items, other_packed.items),
    ):
        assert [i for i, (a, b) in enumerate(zip(made, others, strict=True)) if a is not b] == [3]


def test_a_load_that_failed_takes_nothing_from_the_next(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    memory = FileMemory()
    path.write_text(yaml.safe_dump(start()))
    before = load(path, memory=memory)
    path.write_text(yaml.safe_dump({**start(), "pools": {}}))
    with pytest.raises(ConfigError):
        load(path, memory=memory)
    path.write_text(yaml.safe_dump(start()))
    after = load(path, memory=memory)
    for a, b in zip(before.listeners["web"].routes, after.listeners["web"].routes, strict=True):
        assert a is b


@pytest.mark.parametrize(("right", "wrong"), [(True, 1), (False, 0), ("1s", 1)])
def test_values_that_python_takes_for_equal_are_told_apart(right: Any, wrong: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    memory = FileMemory()
    key = "expose_endpoint" if isinstance(right, bool) else "timeout"
    for value in (right, wrong):
        data = start()
        data["listeners"]["web"]["routes"][0][key] = value
        path.write_text(yaml.safe_dump(data))
        if value is right:
            load(path, memory=memory)
    with pytest.raises(ConfigError, match=rf"routes\[0\].{key}: must be"):
        load(path, memory=memory)


def test_a_memory_is_of_one_round() -> None:
    memory: Memory[str, int] = Memory()
    memory.put("a", 1)
    memory.put("b", 2)
    memory.keep()
    assert memory.get("a") == 1
    memory.keep()
    assert memory.get("b") is None  # nobody asked for it in the round before
    memory.put("c", 3)
    memory.drop()
    assert (memory.get("a"), memory.get("c"), len(memory)) == (1, None, 1)
