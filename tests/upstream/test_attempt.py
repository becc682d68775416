"""The states of an attempt: a slot is held from `picked` on, and every attempt can be released from wherever it is."""

import importlib

STATES: dict[str, list[str]] = importlib.import_module("lb.upstream.attempt").STATES


def test_the_states_in_the_order_of_an_attempt() -> None:
    assert list(STATES) == ["over", "picked", "connecting", "sending", "sent", "answering"]


def test_an_attempt_begins_by_taking_a_slot() -> None:
    assert STATES["over"] == ["picked"]


def test_every_attempt_can_be_released() -> None:
    assert all("over" in followers for state, followers in STATES.items() if state != "over")


def test_an_answer_needs_a_request() -> None:
    assert {state for state, followers in STATES.items() if "answering" in followers} == {"sending", "sent"}
