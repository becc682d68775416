"""GPUs and cores: given once, to whoever waited longest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.control.servers.placement import Claim, Place, Placement, visible_gpus


def test_whole_gpus_and_cores() -> None:
    placement = Placement(["a", "b", "c"], [4, 5, 6, 7])
    first = placement.claim(2, 3, lambda: None)
    assert first.place is not None
    assert (first.place.gpus, first.place.cores) == (("a", "b"), (4, 5, 6))
    second = placement.claim(1, 0, lambda: None)
    assert second.place is not None
    assert (second.place.gpus, second.place.cores) == (("c",), ())
    told: list[str] = []
    third = placement.claim(0, 2, lambda: told.append("third"))
    assert (third.place, third.why) == (None, "waits for 2 of 4 cores, of which 3 are taken")
    first.release()
    assert told == ["third"]
    assert third.place is not None
    assert third.place.cores == (4, 5)
    first.release()
    assert third.place is not None


def test_parts_of_a_gpu_fill_one_before_the_next() -> None:
    placement = Placement(["a", "b"], [])
    thirds = [placement.claim(1 / 3, 0, lambda: None) for _ in range(4)]
    assert [c.place.gpus for c in thirds if c.place] == [("a",), ("a",), ("a",), ("b",)]
    whole = placement.claim(1, 0, lambda: None)
    assert whole.place is None
    thirds[3].release()
    assert whole.place is not None
    assert whole.place.gpus == ("b",)


def test_a_large_claim_is_not_overtaken_for_the_same_and_does_not_hold_up_others() -> None:
    placement = Placement(["a", "b"], [0])
    held = placement.claim(1, 0, lambda: None)
    large = placement.claim(2, 0, lambda: None)
    small = placement.claim(1, 0, lambda: None)
    core = placement.claim(0, 1, lambda: None)
    assert (large.place, small.place) == (None, None)
    assert small.why == "waits for 1 of 2 GPUs, of which 1 are taken, behind others"
    assert core.place is not None
    large.release()  # it waits no more
    assert small.place is not None
    held.release()


def test_a_claim_that_nothing_can_meet_says_what_there_is() -> None:
    assert Placement([], []).claim(1, 0, lambda: None).why == "waits for 1 of 0 GPUs, of which 0 are taken"


@given(
    st.lists(st.tuples(st.sampled_from([0, 0.25, 0.5, 1, 2, 3]), st.integers(0, 3), st.booleans()), max_size=30),
)
def test_nothing_is_given_twice(steps: list[tuple[float, int, bool]]) -> None:
    placement = Placement(["a", "b", "c"], [0, 1, 2, 3])
    claims: list[Claim] = []
    for gpus, cores, release in steps:
        if release and claims:
            claims.pop(0).release()
        else:
            claims.append(placement.claim(gpus, cores, lambda: None))
        held = [claim.place for claim in claims if claim.place is not None]
        used = [core for place in held for core in place.cores]
        assert len(used) == len(set(used))
        for name in placement.gpus:
            assert sum(place.share for place in held if name in place.gpus) <= 1.0001
        for claim in claims:
            assert (claim.place is None) == bool(claim.why)
            if claim.place is not None:
                assert len(claim.place.cores) == claim.cores
                assert len(claim.place.gpus) == (claim.gpus if claim.gpus >= 1 else claim.gpus > 0)
    waiting = [claim for claim in claims if claim.place is None]
    for claim in [claim for claim in claims if claim.place is not None]:
        claim.release()
    assert not waiting or waiting[0].place is not None


@pytest.mark.parametrize(
    ("said", "found"),
    [("", []), ("0,1", ["0", "1"]), ("GPU-a, MIG-b", ["GPU-a", "MIG-b"]), ("1,-1,2", ["1"])],
)
def test_the_gpus_of_the_daemon_are_those_it_may_use(
    said: str, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    assert visible_gpus() == found


def test_whether_a_place_is_about_to_come_free() -> None:
    placement = Placement(["a", "b"], [])
    held = [placement.claim(1, 0, lambda: None) for _ in range(2)]
    told: list[tuple[str, bool]] = []
    first = placement.claim(1, 0, lambda: told.append(("has it", True)), lambda: told.append(("first", first.soon)))
    second = placement.claim(1, 0, lambda: None, lambda: told.append(("second", second.soon)))
    assert (first.soon, second.soon, told) == (False, False, [])
    held[0].end_soon()
    held[0].end_soon()
    assert (first.soon, second.soon, told) == (True, False, [("first", True)])
    held[1].end_soon()
    assert (first.soon, second.soon, told) == (True, True, [("first", True), ("second", True)])
    # Who gives it up after all, as the other: the one behind has to wait for longer.
    held[0].release()
    assert (first.place is not None, second.soon) == (True, True)
    assert ("has it", True) in told
    held[1].release()
    assert second.place is not None


def test_who_waits_behind_another_that_gets_the_place_is_told() -> None:
    placement = Placement(["a"], [])
    held = placement.claim(1, 0, lambda: None)
    placement.claim(1, 0, lambda: None)
    second = placement.claim(1, 0, lambda: None)
    held.end_soon()
    assert not second.soon
    assert second.why == "waits for 1 of 1 GPUs, of which 1 are taken, behind others"


def test_a_place_comes_free_for_what_another_does_not_want() -> None:
    placement = Placement(["a"], [0])
    gpu, core = placement.claim(1, 0, lambda: None), placement.claim(0, 1, lambda: None)
    both = placement.claim(1, 1, lambda: None)
    assert both.wants == "GPUs and cores"
    gpu.end_soon()
    assert not both.soon
    core.end_soon()
    assert both.soon


def test_a_place_that_a_server_has_had_before_is_nobody_elses() -> None:
    placement = Placement(gpus=["0", "1"], cores=[4, 5, 6])
    kept = placement.keep(Place(("1",), 0.5, (4, 5)), 0.5, 2)
    whole = placement.claim(1, 1, lambda: None)
    assert whole.place == Place(("0",), 1.0, (6,))
    half, told = placement.claim(0.5, 0, lambda: None), []
    assert half.place == Place(("1",), 0.5, ())
    waiting = placement.claim(0, 1, lambda: told.append(True))
    assert waiting.place is None
    kept.release()
    assert told
    assert waiting.place == Place((), 1.0, (4,))
