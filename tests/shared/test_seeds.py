"""Seeds: the kernel's, or a sequence that repeats."""

from __future__ import annotations

from lb.shared import seeds


def test_seeds_repeat_only_where_that_is_asked_for() -> None:
    try:
        seeds.repeat(7)
        first = [seeds.draw() for _ in range(100)]
        seeds.repeat(7)
        assert [seeds.draw() for _ in range(100)] == first
        seeds.repeat(8)
        assert seeds.draw() != first[0]
    finally:
        seeds.repeat(None)
    assert len({seeds.draw() for _ in range(100)}) == 100


def test_a_seed_is_a_state_that_xorshift_leaves() -> None:
    assert all(0 < seeds.draw() < 2**64 for _ in range(100))
