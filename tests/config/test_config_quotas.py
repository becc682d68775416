"""`quotas`: what of it is refused, what it compiles to, and windows of the calendar."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lb.config.checks.file import check_config
from lb.config.plan.quotas import QuotaPlan
from lb.config.schema.file import Config
from lb.config.schema.quotas import QuotaConfig, quota_plan
from lb.config.windows import Per, window
from lb.control.jobs.routes import with_jobs

DAILY: dict[str, Any] = {"requests": 5, "per": "day", "key": {"identity": True}}


def config(quota: Any, **settings: Any) -> Config:
    route = {"pool": "a", "quota": quota, "auth": settings.pop("auth_of_route", "keys"), **settings.pop("route", {})}
    sections = {
        "auth": {"keys": {"type": "api_key", "file": "/keys"}},
        "quotas": {"daily": DAILY},
        "listeners": {"web": {"bind": "127.0.0.1:0", "protocol": "http", "routes": [route]}},
        "pools": {"a": {"protocol": "oip", "endpoints": ["127.0.0.1:1"]}},
        **settings,
    }
    return Config.model_validate(sections)


def problems(quota: Any, **settings: Any) -> list[str]:
    return [f"{path}: {what}" for path, what in check_config(config(quota, **settings))]


def test_what_the_sections_contradict() -> None:
    assert problems("daily") == []
    assert problems(["daily"]) == []
    assert problems("dialy") == [
        "listeners.web.routes[0].quota[0]: there is no quota 'dialy'; did you mean daily?"
    ]  # fmt: skip
    (found,) = problems("daily", auth_of_route=None)
    assert found.endswith("quota[0]: quotas.daily counts by identity, which needs auth of the route or of its listener")
    (twice,) = problems(["daily", "daily"])
    assert twice == "listeners.web.routes[0].quota[1]: has 'daily' twice; a request counts once"
    guards = {"a": {"protocol": "http", "endpoints": ["127.0.0.1:1"]}}
    (found,) = problems("daily", auth={"keys": {"type": "http", "pool": "a"}}, pools=guards)
    assert found.endswith("quota[0]: auth.keys has no identity_header, so that its requests have no identity")
    tokens = {"type": "jwt", "issuer": "i", "audience": ["a"]}
    for provider in ({"type": "api_key"}, tokens):
        keys = {"keys": {**provider, "file": "/keys", "header": "X-Key"}}
        (found,) = problems("daily", auth=keys, quotas={"daily": {**DAILY, "key": {"header": "x-key"}}})
        assert found.startswith("quotas.daily.key.header: has the keys of auth")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"requests": 0}, "greater than or equal to 1"),
        ({"requests": 1 << 36}, "less than or equal to"),
        ({"per": "week"}, "'minute', 'hour', 'day' or 'month'"),
        ({"key": {}}, "exactly one of identity, header, source, all is needed"),
        ({"key": {"identity": True, "source": True}}, "exactly one of identity, header, source, all is needed"),
        ({"key": {"header": "Authorization"}}, "has credentials"),
        ({"key": {"header": "X-API-Key"}}, "has credentials"),
        ({"key": {"all": True}, "overrides": {"a": 1}}, "knows no clients"),
        ({"key": {"source": True}, "overrides": {"10.0.0.0/8": 1}}, "neither an IPv4 address nor a /64"),
        ({"key": {"source": True}, "overrides": {"2001:db8::/48": 1}}, "neither an IPv4 address nor a /64"),
        ({"overrides": {"a": 0}}, "greater than or equal to 1"),
        ({"overrides": {"ä": 1}}, "is not a client"),
    ],
)
def test_what_is_no_quota(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as failure:
        QuotaConfig.model_validate({**DAILY, **change})
    assert said in str(failure.value)


def test_what_it_compiles_to() -> None:
    by_source = {"requests": 5, "per": "hour", "key": {"source": True}, "fields": "off"}
    overrides = {"10.0.0.1": 7, "2001:DB8:0:0::/64": 9}
    plan = quota_plan("q", QuotaConfig.model_validate({**by_source, "overrides": overrides}))
    assert plan == QuotaPlan("q", 5, "hour", "source", "", (("10.0.0.1", 7), ("2001:db8::/64", 9)), "off")
    plan = quota_plan("q", QuotaConfig.model_validate({**DAILY, "key": {"header": "X-Tenant"}}))
    assert (plan.key, plan.header) == ("header", "x-tenant")


def test_a_job_counts_when_it_is_accepted_and_not_again_when_it_runs(tmp_path: Path) -> None:
    made = with_jobs(config("daily", route={"jobs": True}, jobs={"path": str(tmp_path / "jobs")}), lambda: tmp_path)
    quotas = {str(route.name): route.quota for listener in made.listeners.values() for route in listener.routes}
    accepts = next(name for name in quotas if name.endswith("/async"))
    assert quotas[accepts] == ["daily"]
    runs = [name for name in quotas if name.endswith("/job")]
    assert runs, quotas
    assert all(quotas[name] == [] for name in runs)


@pytest.mark.parametrize(
    ("per", "at", "start", "end"),
    [
        ("minute", "2026-02-28T23:59:59", "2026-02-28T23:59:00", "2026-03-01T00:00:00"),
        ("hour", "2026-02-28T23:59:59", "2026-02-28T23:00:00", "2026-03-01T00:00:00"),
        ("day", "2026-02-28T23:59:59", "2026-02-28T00:00:00", "2026-03-01T00:00:00"),
        ("month", "2026-02-28T23:59:59", "2026-02-01T00:00:00", "2026-03-01T00:00:00"),
        ("month", "2028-02-29T12:00:00", "2028-02-01T00:00:00", "2028-03-01T00:00:00"),
        ("month", "2026-12-31T23:59:59", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
        ("month", "2027-01-01T00:00:00", "2027-01-01T00:00:00", "2027-02-01T00:00:00"),
    ],
)
def test_windows_of_the_calendar(per: Per, at: str, start: str, end: str) -> None:
    def seconds(text: str) -> int:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())

    found = window(per, seconds(at) + 0.5)
    assert (found.start * 60, found.end * 60) == (seconds(start), seconds(end))
    assert found.end - found.start <= found.span
