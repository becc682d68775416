"""Settings that are changed at run time: which, how they are checked, and when the changes end."""

from __future__ import annotations

from typing import Any

import pytest

from lb.config import settings
from lb.config.plan.plan import EndpointPlan
from lb.config.schema.file import Config
from lb.control.changes import RESET, Settings
from lb.control.endpoints.operated import OperatedEndpoints
from lb.control.registry import DRAIN, ENABLED, LINGER_NS, Initial, Registry
from lb.errors import ConfigError
from lb.shared.segment import Segment


def file(**changes: Any) -> Config:
    routes = [
        {"name": "chat", "match": {"path": {"prefix": "/chat"}}, "pool": "p.q"},
        {"match": {"path": {"prefix": "/x"}}, "pool": "app", "rate_limit": {"rate": "5/s", "burst": 7}},
    ]
    pools = {
        "app": {"protocol": "http", "endpoints": ["127.0.0.1:2"]},
        "p.q": {"protocol": "http", "endpoints": ["127.0.0.1:2"], "max_in_flight": 9},
        "models": {"protocol": "oip", "serve": {"models": "/models", "min": 1, "max": 4}, "scaling": {}},
        "fixed": {"protocol": "oip", "serve": {"models": "/models", "min": 2}},
        "asleep": {"protocol": "oip", "serve": {"models": "/models", "min": 0, "idle_timeout": "1m"}},
        "pods": {
            "protocol": "http",
            "discover": {"dns": {"name": "pods.test", "port": 80}},
            "engine": {"kubernetes": {"target": "deployment/chat"}, "min": 1, "max": 5},
            "scaling": {},
        },
    }
    listener = {"bind": "127.0.0.1:1", "protocol": "http", "routes": routes}
    return Config.model_validate({"listeners": {"web.a": listener}, "pools": pools, **changes})


ROUTE = "listeners.web.a.routes"


@pytest.mark.parametrize(
    ("name", "value", "before", "after"),
    [
        ("log.level", "debug", "info", "debug"),
        ("limits.max_in_flight", 100, 0, 100),
        ("limits.max_memory", "2048MiB", "0B", "2GiB"),
        ("listeners.web.a.max_connections", 5, 20_000, 5),
        ("listeners.web.a.max_connections_per_source", 5, 0, 5),
        (f"{ROUTE}[chat].max_in_flight", 5, None, 5),
        (f"{ROUTE}[chat].rate_limit.rate", "9/m", None, "9/m"),
        (f"{ROUTE}[1].rate_limit.rate", "9/m", "5/s", "9/m"),
        (f"{ROUTE}[1].rate_limit.rate", None, "5/s", None),
        (f"{ROUTE}[web.a/1].rate_limit.burst", 9, 7, 9),
        ("pools.p.q.max_in_flight", 3, 9, 3),
        ("pools.p.q.max_in_flight", None, 9, None),
        ("pools.app.queue.max", 0, None, 0),
        ("pools.app.queue.timeout", "2000ms", "30s", "2s"),
        ("pools.models.serve.max", 9, 4, 9),
        ("pools.models.serve.min", 3, 1, 3),
        ("pools.pods.engine.max", 9, 5, 9),
        ("pools.models.replicas", 3, "1..4", 3),
        ("pools.fixed.replicas", 5, 2, 5),
        ("pools.asleep.replicas", 2, 0, 2),
        ("pools.pods.replicas", 2, "1..5", 2),
    ],
)
def test_a_setting_is_changed_and_reset(name: str, value: Any, before: Any, after: Any) -> None:
    first = Settings(file())
    second, rows = first.changed({name: value}, "anna", lambda: 12.5)
    shown = rows[0]["setting"]
    assert rows == [{"setting": shown, "from": before, "to": after}]
    assert second.rows() == [{"setting": shown, "value": after, "file": before, "at": 12.5, "by": "anna"}]
    assert settings.value(second.config, settings.find(second.config, shown)) == after
    assert second.config != first.config
    third, rows = second.changed({name: RESET}, "bob")
    assert rows == [{"setting": shown, "from": after, "to": before}]
    assert third.rows() == []
    assert third.config == first.config
    assert first.changed({name: RESET}, "bob")[1] == [], "nothing was changed"
    assert first.rows() == [], "what is there is never written to"


def test_every_setting_that_is_named_can_be_found() -> None:
    names = {"LISTENER": "web.a", "ROUTE": "chat", "POOL": "models"}
    for name in settings.known():
        for word, instead in names.items():
            name = name.replace(word, instead)
        assert settings.find(file(), name).name == name


def test_the_routes_that_do_not_change_are_the_same_ones() -> None:
    first = Settings(file())
    config = first.changed({f"{ROUTE}[chat].max_in_flight": 5}, "")[0].config
    before, after = (c.listeners["web.a"].routes for c in (first.file, config))
    assert (before[1] is after[1], before[0] is after[0]) == (True, False)
    assert first.file.pools is config.pools


def test_to_hold_a_pool_to_a_number_takes_its_scaling_away() -> None:
    # Whose schedules may know other numbers than this one.
    schedule = {"cron": "0 8 * * *", "duration": "8h", "min": 3}
    config = file()
    models = Config.model_validate(
        {"listeners": {}, "pools": {"m": {"protocol": "oip", "serve": {"models": "/m", "min": 1, "max": 4},
         "scaling": {"schedules": [schedule]}}}}
    ).pools["m"]  # fmt: skip
    config = config.model_copy(update={"pools": {**config.pools, "models": models}})
    held = Settings(config).changed({"pools.models.replicas": 2}, "")[0].config.pools["models"]
    assert held.serve is not None
    assert (held.serve.min, held.serve.max, held.scaling) == (2, 2, None)
    pods = Settings(config).changed({"pools.pods.replicas": 2}, "")[0].config.pools["pods"]
    assert pods.engine is not None
    assert (pods.engine.min, pods.engine.max, pods.scaling is None) == (2, 2, False)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("log.level", "loud", "log.level: 'loud' is not one of debug, info"),
        ("workers", 3, "workers cannot be changed while the daemon runs; log.level"),
        ("admin.bind", "0.0.0.0:1", "admin.bind cannot be changed"),
        ("pools.app", 1, "pools.app cannot be changed"),
        ("pools.ap.queue.max", 1, "there is no pool 'ap'; did you mean app?"),
        ("listeners.web.max_connections", 1, "there is no listener 'web'"),
        ("listeners.x.routes[0].max_in_flight", 1, "there is no listener 'x'"),
        (f"{ROUTE}[9].max_in_flight", 1, "listener 'web.a' has no route '9'"),
        (f"{ROUTE}[0].pool", "app", "pool of a route cannot be changed"),
        (f"{ROUTE}[chat].rate_limit.burst", 3, "there is no section rate_limit"),
        (f"{ROUTE}[chat].rate_limit.rate", "often", "is not a rate"),
        (f"{ROUTE}[1].rate_limit.burst", 1_000_001, "must be at most 1000000"),
        ("pools.app.queue.max", -1, "must be at least 0"),
        ("pools.app.queue.max", True, "must be a whole number"),
        ("pools.app.queue.max", "5", "must be a whole number; write 5"),
        ("pools.app.queue.timeout", 5_000_000_000, "must be a duration with its unit"),
        ("limits.max_memory", 2 << 30, "must be a size with its unit"),
        ("pools.app.serve.min", 2, "there is no section serve"),
        ("pools.app.replicas", 2, "neither serve nor engine"),
        ("pools.models.replicas", 0, "0 is no number from 1 to 1000"),
        ("pools.models.replicas", True, "True is no number"),
        ("pools.models.serve.min", 9, "pools.models.serve.min: 9 is more than max, which is 4"),
    ],
)
def test_what_cannot_be_is_refused_whole(name: str, value: Any, reason: str) -> None:
    before = Settings(file())
    with pytest.raises(ConfigError) as error:
        before.changed({"log.level": "debug", name: value}, "")
    assert reason in str(error.value)


def test_a_pool_of_an_engine_that_may_be_at_zero_is_held() -> None:
    engine = {"kubernetes": {"target": "deployment/chat"}, "min": 0, "idle_timeout": "1m"}
    pods = {"protocol": "http", "discover": {"dns": {"name": "pods.test", "port": 80}}, "engine": engine}
    config = Config.model_validate({"listeners": {}, "pools": {"pods": pods}})
    held = Settings(config).changed({"pools.pods.replicas": 2}, "")[0].config.pools["pods"].engine
    assert held is not None
    assert (held.min, held.max) == (2, 2)
    kept = config.pools["pods"].engine
    assert kept is not None
    assert "idle_timeout" in kept.model_fields_set


def test_what_was_wrong_before_stands_in_no_way() -> None:
    """As a reload leaves it: routes that use a cache, and a cache that is made by the next restart."""
    route = {"match": {"path": {"prefix": "/"}}, "pool": "app", "http_cache": True}
    listener = {"bind": "127.0.0.1:1", "protocol": "http", "routes": [route]}
    before = Settings(file(listeners={"web": listener}, cache={}).model_copy(update={"cache": None}))
    found, rows = before.changed({"log.level": "debug"}, "")
    assert len(rows) == 1
    assert found.config.log.level == "debug"
    with pytest.raises(ConfigError, match=r"serve\.min: 9 is more than max"):
        before.changed({"pools.models.serve.min": 9}, "")


def test_to_set_what_the_file_says_is_no_change() -> None:
    found, rows = Settings(file()).changed({"log.level": "info", "pools.app.queue.timeout": "30000ms"}, "")
    assert (rows, found.rows()) == ([], [])
    debug, _ = found.changed({"log.level": "debug"}, "")
    found, rows = debug.changed({"log.level": "info"}, "")
    assert rows == [{"setting": "log.level", "from": "debug", "to": "info"}]
    assert found.rows() == []


def test_a_reload_keeps_changes_until_the_file_says_something_else() -> None:
    wanted = {"log.level": "debug", "pools.app.queue.max": 5, f"{ROUTE}[chat].max_in_flight": 3}
    found, _ = Settings(file()).changed(wanted, "")
    kept, ended = found.over(file(zone="a"))
    assert ended == []
    assert kept.rows() == found.rows()
    assert kept.config.log.level == "debug"
    kept, ended = found.over(file(log={"level": "warning"}))
    assert ended == ["log.level: debug ends: the file says warning now, info before"]
    assert len(kept.rows()) == 2
    assert kept.config.log.level == "warning"
    assert kept.config.pools["app"].queue.max == 5
    found, _ = Settings(file()).changed({"pools.models.serve.max": 5, "log.level": "debug"}, "")
    pools = {name: pool for name, pool in file().pools.items() if name != "models"}
    kept, ended = found.over(file().model_copy(update={"pools": pools}))
    assert ended == ["pools.models.serve.max: 5 ends: there is no pool 'models'"]
    assert [row["setting"] for row in kept.rows()] == ["log.level"]


def test_a_route_that_moved_keeps_its_change_by_name_and_loses_it_by_number() -> None:
    found, _ = Settings(file()).changed({f"{ROUTE}[chat].max_in_flight": 3, f"{ROUTE}[1].max_in_flight": 4}, "")
    routes = [
        {"match": {"path": {"prefix": "/new"}}, "pool": "app"},
        {"match": {"path": {"prefix": "/other"}}, "pool": "app"},
        {"name": "chat", "match": {"path": {"prefix": "/chat"}}, "pool": "app"},
    ]
    kept, ended = found.over(file(listeners={"web.a": {"bind": "127.0.0.1:1", "protocol": "http", "routes": routes}}))
    assert ended == [f"{ROUTE}[1].max_in_flight: 4 ends: the route is for other requests now"]
    assert [r.max_in_flight for r in kept.config.listeners["web.a"].routes] == [None, None, 3]


def test_a_change_that_the_new_file_does_not_allow_ends() -> None:
    found, _ = Settings(file()).changed({"pools.models.serve.min": 3, "log.level": "error"}, "")
    pools = {"models": {"protocol": "oip", "serve": {"models": "/m", "min": 1, "max": 2}, "scaling": {}}}
    config = file()
    smaller = Config.model_validate({"listeners": {}, "pools": pools}).pools
    kept, ended = found.over(config.model_copy(update={"pools": {**config.pools, **smaller}}))
    assert "serve.min: 3 is more than max, which is 2" in ended[0]
    assert [row["setting"] for row in kept.rows()] == ["log.level"]


def test_what_a_running_configuration_shows() -> None:
    data: dict[str, Any] = {
        "pools": {"m": {"serve": {"models": "/m"}, "scaling": {}}},
        "listeners": {"w": {"routes": [{}]}},
    }
    find = lambda name, *location: settings.Setting(name, location)  # noqa: E731
    settings.overlaid(data, find("", "log", "level"), "debug")
    settings.overlaid(data, find("", "listeners", "w", "routes", 0, "rate_limit", "rate"), "5/s")
    settings.overlaid(data, find("", "pools", "m", "replicas"), 3)
    assert data == {
        "pools": {"m": {"serve": {"models": "/m", "min": 3, "max": 3}}},
        "listeners": {"w": {"routes": [{"rate_limit": {"rate": "5/s"}}]}},
        "log": {"level": "debug"},
    }


def test_differences_are_told_by_setting() -> None:
    running = {"a": {"b": 1, "c": [{"d": 1}, 2]}, "gone": 1, "list": [1], "t": True}
    now = {"a": {"b": 2, "c": [{"d": 3}, 2]}, "new": {"x": 1}, "list": [1, 2], "t": 1}
    assert settings.differences(running, now) == [
        ("a.b", 1, 2), ("a.c[0].d", 1, 3), ("gone", 1, None), ("list", [1], [1, 2]), ("t", True, 1),
        ("new", None, {"x": 1}),
    ]  # fmt: skip
    assert settings.differences(running, running) == []


def test_secrets_are_not_shown() -> None:
    data = {
        "url": "redis://user:pw@host:1/0", "password": "pw", "password_file": "/f", "headers": {"Authorization": "x"},
        "env": {"HF_TOKEN": "x", "API_KEY": "${KEY}", "MODE": "fast"}, "max_tokens": 5, "items": [{"secret": "x"}],
        "tags_header": "Cache-Tag",
    }  # fmt: skip
    assert settings.without_secrets(data) == {
        "url": "redis://(hidden)@host:1/0", "password": "(hidden)", "password_file": "/f",
        "headers": {"Authorization": "(hidden)"}, "env": {"HF_TOKEN": "(hidden)", "API_KEY": "${KEY}", "MODE": "fast"},
        "max_tokens": 5, "items": [{"secret": "(hidden)"}], "tags_header": "Cache-Tag",
    }  # fmt: skip


class Endpoints:
    """A registry with endpoints of a pool, as plans bring them."""

    def __init__(self) -> None:
        self.segment = Segment.create(1, 16, 16)
        self.registry = Registry(self.segment, 16, 16)
        self.operated = OperatedEndpoints(self.registry)

    def __del__(self) -> None:
        self.segment.close()

    def plan(self, now: int = 0, **weights: int) -> dict[str, int]:
        self.registry.begin()
        slots = {name: self.registry.endpoint("p", name) for name in weights}
        initial = {slots[name]: Initial(weight, True) for name, weight in weights.items()}
        self.registry.prepare(initial, now)
        self.registry.commit(initial, now)
        return slots


def endpoint(name: str, slot: int, most: int = 0) -> EndpointPlan:
    return EndpointPlan(address=name, slot=slot, series=0, weight=1, max_in_flight=most)


def test_what_operators_want_of_endpoints_is_told() -> None:
    known = Endpoints()
    slots = known.plan(a=1, b=5)
    assert known.operated.rows() == []
    known.registry.operate(slots["a"], DRAIN)
    known.registry.operate_weight(slots["b"], 7)
    known.operated.note("p", "a", "admin", 3.0, "anna")
    rows = known.operated.rows()
    assert rows == [
        {
            "pool": "p",
            "endpoint": "a",
            "setting": "admin",
            "value": "drain",
            "file": "enabled",
            "at": 3.0,
            "by": "anna",
        },
        {"pool": "p", "endpoint": "b", "setting": "weight", "value": 7, "file": 5, "at": None, "by": None},
    ]
    known.plan(a=1, b=5)
    assert known.operated.rows() == rows, "a reload keeps them"
    known.plan(a=1, b=6)
    assert [row["setting"] for row in known.operated.rows()] == ["admin"], "the file has another weight"
    known.registry.operate(slots["a"], ENABLED)
    assert known.operated.rows() == []


def test_a_limit_holds_until_the_file_says_another() -> None:
    known = Endpoints()
    slot = known.plan(a=1)["a"]
    before = known.operated.set_limit("p", endpoint("a", slot, 4), 9)
    assert before is None
    assert known.operated.limits("p")
    assert not known.operated.limits("q")
    assert known.operated.limit("p", endpoint("a", slot, 4)) == 9
    known.operated.set_limit("p", endpoint("a", slot, 9), 2)  # the plan's is the operator's now
    assert known.operated.rows()[0]["file"] == 4
    assert known.operated.file_limit("p", endpoint("a", slot, 2)) == 4
    assert known.operated.limit("p", endpoint("a", slot, 5)) is None, "the file says 5"
    assert known.operated.rows() == []
    assert known.operated.limit("p", endpoint("a", slot, 4)) == 2, "that reload came to nothing"
    assert known.operated.limit("p", endpoint("a", slot, 5)) is None
    known.operated.settle()
    assert known.operated.limit("p", endpoint("a", slot, 4)) is None
    assert not known.operated.limits("p")


def test_a_limit_that_the_workers_did_not_take_is_undone() -> None:
    known = Endpoints()
    slot = known.plan(a=1)["a"]
    known.operated.set_limit("p", endpoint("a", slot), 9)
    before = known.operated.set_limit("p", endpoint("a", slot, 9), None)
    known.operated.restore("p", endpoint("a", slot), before)
    assert known.operated.limit("p", endpoint("a", slot)) == 9


def test_what_was_wanted_ends_with_the_endpoint() -> None:
    known = Endpoints()
    slot = known.plan(a=1, b=1)["a"]
    known.operated.set_limit("p", endpoint("a", slot), 9)
    known.registry.operate(slot, DRAIN)
    known.operated.note("p", "a", "admin", 3.0, "anna")
    known.plan(b=1)
    assert known.operated.rows() == []
    known.registry.sweep(LINGER_NS + 1)
    known.operated.settle()
    slot = known.plan(a=1, b=1)["a"]
    assert known.operated.limit("p", endpoint("a", slot)) is None
    assert known.operated.rows() == []


def test_queries_of_urls_are_hidden() -> None:
    data = {"alerts": {"urls": ["https://a/b?key=K1&token=${T}&n=K2", "https://a/${T}"]}, "health": {"path": "/?a=b"}}
    assert settings.without_secrets(data) == {
        "alerts": {"urls": ["https://a/(hidden)?key=(hidden)&token=${T}&n=(hidden)", "https://a/${T}"]},
        "health": {"path": "/?a=b"},
    }


def test_paths_of_webhooks_are_hidden() -> None:
    urls = ["https://hooks.slack.com/services/T0/B0/x", "http://u:p@a:8/x", "https://a/${T}", "https://a", "${URL}"]
    shown = ["https://hooks.slack.com/(hidden)", "http://(hidden)@a:8/(hidden)", *urls[2:]]
    data = {"alerts": {"urls": urls}, "jobs": {"webhooks": {"urls": urls}}, "auth": {"sso": {"url": "https://a/b"}}}
    assert settings.without_secrets(data) == {
        "alerts": {"urls": shown}, "jobs": {"webhooks": {"urls": shown}}, "auth": {"sso": {"url": "https://a/b"}},
    }  # fmt: skip
    assert [settings.without_secrets(url, f"urls[{i}]") for i, url in enumerate(urls)] == shown  # of a difference
