"""The bits of models: who gets which, and what the endpoints' words say."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from lb.config.schema.file import HealthConfig
from lb.control.endpoints.models import LINGER_NS, ModelReadiness
from lb.health.check import NO_INDEX
from lb.health.monitor import Target
from lb.health.transitions import TransitionLog

INDEX = HealthConfig(type="oip", models="index")


class AgentState:
    def __init__(self) -> None:
        self.masks: dict[int, int] = {}

    def set_models_unready(self, slot: int, mask: int) -> None:
        assert 0 <= mask < 1 << 64
        self.masks[slot] = mask


class Rig:
    def __init__(self, listed: list[str] | None = None, endpoints: int = 2) -> None:
        self.now = 0
        self.words = AgentState()
        self.transitions = TransitionLog()
        self.models = ModelReadiness(self.words, self.transitions, lambda: self.now)
        self.listed = listed or []
        self.health = HealthConfig(type="oip", models=listed) if listed else INDEX
        self.follow(endpoints)

    def ask(self, listed: list[str] | str) -> None:
        """The configuration has these models now."""
        self.listed = [] if isinstance(listed, str) else listed
        self.health = HealthConfig(type="oip", models=listed)
        self.follow(2)

    def follow(self, endpoints: int) -> None:
        self.models.follow({"p": self.listed}, {"p": [(f"e:{i}", i) for i in range(endpoints)]})

    def report(self, slot: int, begun: int = 0, **models: bool) -> bool:
        return self.models.report(Target("p", f"e:{slot}", slot, self.health), models, begun)

    def unready(self, slot: int) -> set[str]:
        """The models whose bit is set, by the names that the plan would have."""
        names = self.models.names()["p"]
        return {name for bit, name in enumerate(names) if name and self.words.masks.get(slot, 0) >> bit & 1}


def test_a_listed_model_has_its_bit_before_anybody_reports() -> None:
    rig = Rig(["a", "b"])
    assert rig.models.names() == {"p": ("a", "b")}
    assert not rig.report(0, a=True, b=False)
    assert rig.unready(0) == {"b"}
    assert rig.unready(1) == set()  # who has said nothing counts as ready, as `initial` would have it


def test_a_model_that_another_endpoint_names_is_not_ready_here() -> None:
    rig = Rig()
    assert rig.report(0, a=True)
    assert rig.report(1, b=True)
    assert (rig.unready(0), rig.unready(1)) == ({"b"}, {"a"})
    assert not rig.report(1, b=True)
    assert not rig.report(1, a=True, b=True)
    assert (rig.unready(0), rig.unready(1)) == ({"b"}, set())


def test_who_has_no_index_may_have_any_model(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.report(0, a=True)
    rig.report(1, b=True)
    target = Target("p", "e:1", 1, INDEX)
    assert rig.models.report(target, NO_INDEX, 0)
    assert not rig.models.report(target, NO_INDEX, 0)
    assert (rig.unready(0), rig.unready(1)) == (set(), set())
    assert rig.report(0, a=True, c=False)
    assert (rig.unready(0), rig.unready(1)) == ({"c"}, set())
    assert rig.models.status()["p"]["e:1"] == {}
    assert [r.getMessage() for r in caplog.records if "no index" in r.getMessage()] == [
        "pool p: endpoint e:1: the server has no index of its models (RepositoryIndex): requests for any model go "
        "there while it is ready; name the models in health.models to have them asked about"
    ]
    rig.report(1)
    assert rig.unready(1) == {"a", "c"}  # it has an index now, without models


def test_status_has_a_model_that_only_others_name_as_not_ready() -> None:
    rig = Rig()
    rig.report(0, a=True, b=True)
    rig.report(1, a=True)
    assert rig.models.status() == {"p": {"e:0": {"a": True, "b": True}, "e:1": {"a": True, "b": False}}}
    rig.report(0, a=True)
    assert rig.models.status() == {"p": {"e:0": {"a": True}, "e:1": {"a": True}}}


def test_a_model_that_nobody_names_any_more_is_unknown_and_its_bit_rests() -> None:
    rig = Rig()
    rig.report(0, a=True, b=True)
    rig.report(1, a=True)
    assert rig.report(0, a=True)
    assert rig.models.names() == {"p": ("a",)}
    assert rig.report(0, a=True, c=True)
    assert rig.models.names() == {"p": ("a", "", "c")}, "a worker may still take that bit for b"
    rig.now = LINGER_NS
    assert rig.report(0, a=True, c=True, d=True)
    assert rig.models.names() == {"p": ("a", "d", "c")}
    assert (rig.unready(0), rig.unready(1)) == (set(), {"c", "d"})


def test_no_more_than_64_are_tracked_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    many: dict[str, bool] = {f"m{i:02}": False for i in range(66)}
    rig.report(0, **many)
    names = rig.models.names()["p"]
    assert len(names) == 64
    assert rig.words.masks[0] == (1 << 64) - 1
    rig.report(0, **{**many, "m00": True})
    said = [r.getMessage() for r in caplog.records if "more than 64" in r.getMessage()]
    assert len(said) == 1
    assert "m64, m65" in said[0]
    rig.report(1, **{f"m{i:03}": True for i in range(1000)})
    said = [r.getMessage() for r in caplog.records if "more than 64" in r.getMessage()]
    assert len(said[1]) < 200
    assert " and 994 more" in said[1]


def test_what_gone_endpoints_said_is_forgotten() -> None:
    rig = Rig()
    rig.report(0, a=True)
    rig.report(1, b=True)
    rig.follow(1)
    assert rig.models.names() == {"p": ("a",)}
    assert rig.unready(0) == set()
    assert rig.models.status() == {"p": {"e:0": {"a": True}}}


def test_a_pool_whose_checks_ask_no_more_has_no_bits_left() -> None:
    rig = Rig()
    rig.report(0, a=False)
    assert rig.words.masks[0] == 1
    rig.models.follow({}, {})
    assert rig.words.masks[0] == 0
    assert rig.models.names() == {}
    assert not rig.report(0, a=False), "a check that was under way when the configuration changed"


def test_a_model_that_is_asked_about_from_now_on_counts_as_ready_until_the_server_answers() -> None:
    rig = Rig(["a"])
    rig.report(0, a=False)
    rig.ask(["a", "b"])
    assert rig.unready(0) == {"a"}
    rig.report(0, a=False, b=False)
    assert rig.unready(0) == {"a", "b"}


def test_a_model_that_is_not_asked_about_any_more_is_unready_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(["a", "b"])
    rig.report(0, a=True, b=True)
    rig.report(1, a=True, b=True)
    rig.ask(["a"])
    rig.report(0, a=True)  # and the other one is gone: it does not answer any more
    assert rig.models.names() == {"p": ("a",)}
    assert rig.unready(0) == rig.unready(1) == set()
    assert rig.models.status() == {"p": {"e:0": {"a": True}, "e:1": {"a": True}}}
    assert not rig.transitions.last(9)
    assert not caplog.records


def test_from_a_list_to_the_index_and_back_nobody_is_judged_by_what_was_not_asked() -> None:
    rig = Rig(["a"])
    rig.report(0, a=True)
    rig.report(1, a=True)
    rig.ask("index")
    rig.report(0, a=True, b=True)
    assert rig.unready(1) == set()
    rig.report(1, a=True)
    assert rig.unready(1) == {"b"}
    rig.ask(["a", "b"])
    assert rig.unready(1) == set()


def test_changes_are_kept_and_logged_with_their_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tidegate.health")
    rig = Rig()
    for models in ({"a": True, "b": False}, {"a": True, "b": True}, {"b": True}):
        rig.report(0, **models)
    found: list[Any] = [(c.what, c.before, c.after, c.reason) for c in reversed(rig.transitions.last(9))]
    assert found == [
        ("model b", "unknown", "unready", "the server says so"),
        ("model b", "unready", "ready", "the server says so"),
        ("model a", "ready", "unready", "the server does not name it any more"),
    ]
    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO", "WARNING"]
    assert caplog.records[0].getMessage() == "pool p: endpoint e:0: model b is unready: the server says so"


def test_models_are_withheld_whatever_the_checks_say() -> None:
    rig = Rig()
    rig.report(0, a=True)
    rig.report(1, a=True)
    assert rig.models.withhold("p", {("e:1", 1): frozenset({"a", "b"})})
    assert (rig.unready(0), rig.unready(1)) == ({"b"}, {"a", "b"})  # the first names all that it has
    assert not rig.models.withhold("p", {("e:1", 1): frozenset({"a", "b"})})
    rig.report(1, a=True, b=True)
    assert rig.unready(1) == {"a", "b"}
    rig.models.withhold("p", {})
    assert rig.unready(1) == set()


def test_models_are_withheld_in_a_pool_whose_checks_do_not_ask_for_them() -> None:
    rig = Rig()
    endpoints = {"q": [("e:5", 5), ("e:6", 6)]}
    assert not rig.models.withhold("q", {})
    assert rig.models.withhold("q", {("e:5", 5): frozenset({"m"})})
    rig.models.follow({"p": []}, endpoints)
    assert rig.models.names()["q"] == ("m",)
    assert (rig.words.masks[5], rig.words.masks.get(6, 0)) == (1, 0)
    assert rig.models.withhold("q", {("e:6", 6): frozenset({"m"})}) is False
    assert (rig.words.masks[5], rig.words.masks[6]) == (0, 1)
    rig.models.follow({"p": []}, {"q": [("e:5", 5)]})  # the endpoint is gone, and with it what was withheld
    assert "q" not in rig.models.names()
    assert rig.models.withhold("q", {("e:5", 5): frozenset({"m"})})
    assert rig.models.withhold("q", {})
    assert rig.words.masks[5] == 0
    assert "q" not in rig.models.names()


def test_a_load_is_believed_before_a_check_says_so() -> None:
    rig = Rig()
    rig.report(0, a=True)
    rig.report(1, a=True)
    rig.now = 10
    assert rig.models.change("p", [("e:0", 0)], "b", True)
    assert (rig.unready(0), rig.unready(1)) == (set(), {"b"})
    rig.report(0, begun=9, a=True)  # a check that asked before
    assert rig.unready(0) == set()
    rig.report(0, begun=10, a=True, b=False)
    assert rig.unready(0) == {"b"}
    rig.models.change("p", [("e:0", 0)], "a", False)
    assert rig.unready(0) == {"a", "b"}
    rig.report(0, begun=9, a=True, b=True)
    assert rig.unready(0) == {"a"}
    found: list[Any] = [(c.what, c.before, c.after, c.reason) for c in rig.transitions.last(9)]
    assert ("model b", "unknown", "ready", "loaded") in found
    assert ("model a", "ready", "unready", "unloaded") in found


def test_a_load_says_nothing_where_checks_do_not_ask_for_the_model() -> None:
    rig = Rig(["a"])
    rig.report(0, a=True)
    assert not rig.models.change("p", [("e:0", 0)], "b", True)
    assert not rig.models.change("q", [("e:0", 0)], "a", True)
    assert rig.models.names() == {"p": ("a",)}
    rig = Rig()
    rig.models.report(Target("p", "e:0", 0, rig.health), NO_INDEX, 0)
    assert not rig.models.change("p", [("e:0", 0)], "a", False)
    assert rig.unready(0) == set()
