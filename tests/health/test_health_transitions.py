from __future__ import annotations

from itertools import count

from lb.health.transitions import TransitionLog


def test_the_newest_first_bounded_and_without_what_changed_nothing() -> None:
    ticks = count(100)
    log = TransitionLog(3, lambda: float(next(ticks)))
    log.add("p", "a:1", "health", "up", "up", "nothing happened")
    for i, pool in enumerate("pqpq"):
        log.add(pool, "a:1", "health", "up" if i % 2 else "down", "down" if i % 2 else "up", f"reason {i}")
    assert len(log) == 3
    assert [(c.at, c.pool, c.reason) for c in log.last(10)] == [
        (103.0, "q", "reason 3"),
        (102.0, "p", "reason 2"),
        (101.0, "q", "reason 1"),
    ]
    assert [c.reason for c in log.last(1)] == ["reason 3"]
    assert [c.reason for c in log.last(10, "p")] == ["reason 2"]
    assert log.last(10, "q", "b:1") == []
    assert log.last(1)[0].describe() == {
        "at": 103.0, "pool": "q", "endpoint": "a:1", "what": "health", "from": "up", "to": "down", "reason": "reason 3",
    }  # fmt: skip
