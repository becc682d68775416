"""What the tests wait with."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import eventually, until, until_in_thread


def early(number: int) -> Any:
    """What a probe meets that looks too early, by its number; after the last one the answer is there."""
    pools: list[Any] = []
    by_name: dict[str, Any] = {"queue": None}
    probes: list[Callable[[], Any]] = [
        lambda: pools[0]["endpoints"],
        lambda: by_name["pool"],
        lambda: by_name["queue"]["waiting"],
        lambda: next(iter(pools)),
        lambda: json.loads('{"half'),
        lambda: Path("/none").read_text(),
        lambda: None,
    ]
    return probes[number]() if number < len(probes) else "found"


class Probe:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Any:
        self.calls += 1
        return early(self.calls - 1)


async def test_a_look_that_is_too_early_is_repeated() -> None:
    assert eventually(Probe()) == "found"
    assert await until(Probe()) == "found"
    assert await until_in_thread(Probe()) == "found"


async def test_the_last_result_is_in_the_failure() -> None:
    with pytest.raises(AssertionError, match=r"the answer: not within 0.1 s, last: IndexError"):
        eventually(lambda: [][0], "the answer", 0.1)
    with pytest.raises(AssertionError, match=r"the answer: not within 0.1 s, last: 0"):
        await until(lambda: 0, "the answer", 0.1)


def test_a_probe_is_asked_at_least_once_after_its_time() -> None:
    """A machine that gave the test no CPU in the meantime does not make it fail."""
    asked = []

    def probe() -> bool:
        asked.append(1)
        time.sleep(0.05)
        return len(asked) > 1

    assert eventually(probe, "it", 0.01)


def test_other_errors_end_the_wait() -> None:
    def dead() -> Any:
        raise RuntimeError("the daemon ended")

    with pytest.raises(RuntimeError):
        eventually(dead)
