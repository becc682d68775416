"""`auth`: what of it is refused, what it compiles to, and files of keys."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lb.cli.key import new_key
from lb.config.checks.file import check_config
from lb.config.environment import Sources, expanded
from lb.config.plan.access import AccessPlan
from lb.config.schema.access import NO_AUTH, AccessConfig, access_of, access_plan, provider_plan, read_keys
from lb.config.schema.file import Config
from lb.config.schema.listeners.tls import Material
from lb.errors import TidegateError

KEYS = {"type": "api_key", "file": "/keys"}


def config(route: dict[str, Any], *more: dict[str, Any], **settings: Any) -> Config:
    sections = {
        "auth": {"keys": KEYS, "machines": {"type": "mtls"}},
        "listeners": {"web": {"bind": "127.0.0.1:0", "protocol": "http", "routes": [{"pool": "a", **route}, *more]}},
        "pools": {"a": {"protocol": "oip", "endpoints": ["127.0.0.1:1"]}},
        "cache": {},
        **settings,
    }
    return Config.model_validate(sections)


def problems(route: dict[str, Any], *more: dict[str, Any], **settings: Any) -> list[str]:
    return [f"{path}: {what}" for path, what in check_config(config(route, *more, **settings))]


@pytest.mark.parametrize("auth", ["keys", ["keys"], {"providers": ["keys"]}])
def test_a_name_is_short_for_a_mapping(auth: Any) -> None:
    assert problems({"auth": auth}) == []
    route = config({"auth": auth}).listeners["web"].routes[0]
    assert route.auth is not None
    assert route.auth.providers == ["keys"]


@pytest.mark.parametrize(
    ("route", "said"),
    [
        ({"auth": "kyes"}, "routes[0].auth.providers[0]: there is no provider 'kyes'; did you mean keys?"),
        ({"auth": "machines"}, "needs tls of the listener with client_auth: optional or required"),
        ({"rate_limit": {"rate": "1/s", "key": {"identity": True}}}, "rate_limit.key.identity: needs auth"),
        ({"cache": {"tenant": {"identity": True}}}, "cache.tenant.identity: needs auth"),
    ],
)
def test_what_the_sections_contradict(route: dict[str, Any], said: str) -> None:
    (found,) = problems(route)
    assert said in found


GUARD = {"type": "http", "pool": "guards"}
GUARDS = {
    "pools": {
        "a": {"protocol": "oip", "endpoints": ["127.0.0.1:1"]},
        "guards": {"protocol": "http", "endpoints": ["127.0.0.1:2"]},
    }
}


def test_authorization_servers_and_what_goes_by_identities() -> None:
    named = {**GUARD, "identity_header": "X-User"}
    by_identity = {"rate_limit": {"rate": "1/s", "key": {"identity": True}}, "cache": {"tenant": {"identity": True}}}
    assert problems({"auth": {"providers": ["g"], "allow": ["a"]}, **by_identity}, auth={"g": named}, **GUARDS) == []
    found = problems({"auth": {"providers": ["g"], "allow": ["a"]}, **by_identity}, auth={"g": GUARD}, **GUARDS)
    assert [one.partition(": ")[0].partition("routes[0].")[2] for one in found] == [
        "rate_limit.key.identity", "cache.tenant.identity", "auth.allow"
    ]  # fmt: skip
    assert all("auth.g has no identity_header" in one for one in found)
    (missing,) = problems({"auth": "g"}, auth={"g": {**GUARD, "pool": "guard"}}, **GUARDS)
    assert missing == "auth.g.pool: there is no pool 'guard'; did you mean guards?"
    (other,) = problems({"auth": "g"}, auth={"g": {**GUARD, "type": "grpc"}}, **GUARDS)
    assert other == "auth.g.pool: the pool 'guards' speaks http; this needs grpc"
    (name,) = problems({}, auth={"none": GUARD}, **GUARDS)
    assert name.startswith("auth.none: is no name for a provider")


def test_scopes_and_claims_are_of_credentials_that_have_them() -> None:
    tokens = {"type": "jwt", "file": "/k", "issuer": "i", "audience": ["a"]}
    wanted = {"scopes": ["infer"], "claims": {"groups": "ml"}}
    assert problems({"auth": {"providers": ["sso"], **wanted}}, auth={"sso": tokens}) == []
    found = problems({"auth": {"providers": ["keys", "machines"], **wanted}})
    assert [one.partition(": ")[0].rpartition(".")[2] for one in found] == [
        "claims",
        "providers[1]",
        "scopes",
        "claims",
    ]
    with pytest.raises(ValidationError, match="is not a scope"):
        config({"auth": {"providers": ["keys"], "scopes": ["a b"]}})


def test_a_listener_asks_for_what_its_routes_do_not_say() -> None:
    made = config({}, {"pool": "a", "auth": "none"}, {"pool": "a", "auth": "machines"})
    default = made.listeners["web"].model_copy(update={"auth": AccessConfig(providers=["keys"])})
    asked = [access_of(default.auth, route.auth) for route in default.routes]
    assert [one and one.providers for one in asked] == [["keys"], None, ["machines"]]
    assert access_of(NO_AUTH, None) is None

    def listener(**settings: Any) -> list[str]:
        web = {"bind": "127.0.0.1:0", "protocol": "http", "routes": [{"pool": "a"}], **settings}
        quotas = {"daily": {"requests": 5, "per": "day", "key": {"identity": True}}}
        return problems({}, listeners={"web": web}, quotas=quotas, log={"access": "-"})

    assert listener(auth="keys") == []
    assert listener(auth="keys", routes=[{"pool": "a", **{"cache": {"tenant": {"identity": True}}}}]) == []
    who = expanded("${auth.identity}", Sources({}, Path("/")), [])
    by_identity: list[dict[str, Any]] = [{"quota": "daily"}, {"log_fields": {"who": who}}]
    for route in by_identity:
        assert listener(auth="keys", routes=[{"pool": "a", **route}]) == []
        for settings, without in (({"auth": "keys"}, {"auth": "none"}), ({}, {})):
            (found,) = listener(**settings, routes=[{"pool": "a", **without, **route}])
            assert found.endswith("needs auth of the route or of its listener")
    assert listener(auth="kyes") == ["listeners.web.auth.providers[0]: there is no provider 'kyes'; did you mean keys?"]
    tcp = {"bind": "127.0.0.1:0", "protocol": "tcp", "pool": "t", "auth": "keys"}
    pools = {"t": {"protocol": "tcp", "endpoints": ["127.0.0.1:1"]}}
    assert any("listeners.web.auth" in one for one in problems_of(listeners={"web": tcp}, pools=pools))


def problems_of(**sections: Any) -> list[str]:
    made = Config.model_validate({"auth": {"keys": KEYS}, **sections})
    return [f"{path}: {what}" for path, what in check_config(made)]


def test_routes_with_jobs_have_the_same_auth() -> None:
    jobs = {"path": "/jobs.db"}
    with_jobs = {"jobs": True, "pool": "a", "match": {"path": {"prefix": "/x"}}}
    assert problems({"jobs": True, "auth": "keys"}, {**with_jobs, "auth": "keys"}, jobs=jobs) == []
    (found,) = problems({"jobs": True, "auth": "keys"}, with_jobs, jobs=jobs)
    assert "routes[1].auth: has to be that of listeners.web.routes[0]" in found
    (found,) = problems({"jobs": True}, jobs={**jobs, "tenant": {"identity": True}})
    assert found.startswith("jobs.tenant.identity: ")


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        ({"type": "api_key"}, "file is required for type api_key"),
        ({**KEYS, "header": "X-A", "query": "a"}, "one of them is enough"),
        ({"type": "mtls", "header": "X-A"}, "header is only for type api_key"),
        ({"type": "basic", "file": "/k", "header": "X-A"}, "header is only for type api_key and jwt"),
        ({**KEYS, "names": ["a"]}, "names is only for type mtls"),
        ({**KEYS, "audience_claim": "client_id"}, "audience_claim is only for type jwt"),
        *(
            (
                {"type": "jwt", "file": "/k", "issuer": "i", "audience": ["a"], "claim": pointer},
                "is not the name of a claim, nor a JSON Pointer",
            )
            for pointer in ("", "/", "/a//b", "/a/", "/a~2", "/a~", "/a" * 9, "a b")
        ),
        ({"type": "jwt", "file": "/k"}, "issuer and audience are required for type jwt"),
        ({"type": "jwt", "file": "/k", "issuer": "i", "audience": ["a"], "algorithms": ["none"]}, "algorithms"),
        ({"type": "jwt", "file": "/k", "issuer": "i", "audience": ["a"], "algorithms": ["HS256"]}, "algorithms"),
        (
            {"type": "jwt", "url": "https://i/k", "file": "/k", "issuer": "i", "audience": ["a"]},
            "exactly one has the keys",
        ),
        ({"type": "jwt", "url": "http://i/k", "issuer": "i", "audience": ["a"]}, "is not https"),
        ({"type": "jwt", "url": "http://127.0.0.1.i/k", "issuer": "i", "audience": ["a"]}, "is not https"),
        ({"type": "basic", "file": "/k", "issuer": "i"}, "issuer is only for type jwt"),
        ({"type": "mtls", "names": [" a"]}, "is not the name of an identity"),
        ({"type": "http"}, "pool is required for type http"),
        ({"type": "grpc", "pool": "p", "path": "/x"}, "path is only for type http"),
        ({**KEYS, "pool": "p"}, "pool is only for type http and grpc"),
        ({"type": "http", "pool": "p", "headers": ["X-Forwarded-Uri"]}, "X-Forwarded-Uri is set by Tidegate itself"),
        ({"type": "http", "pool": "p", "set_request_headers": ["Host"]}, "Host is set by Tidegate itself"),
        ({"type": "http", "pool": "p", "set_request_headers": ["X_User"]}, "letters, digits and hyphens only"),
        ({"type": "http", "pool": "p", "identity_header": "X-Tidegate-Identity"}, "is set by Tidegate itself"),
        ({"type": "http", "pool": "p", "denied_headers": ["Content-Length"]}, "is set by Tidegate itself"),
        ({"type": "http", "pool": "p", "cache_by": "credentials"}, "has no effect without cache"),
        ({"type": "grpc", "pool": "p", "cache": "1s", "cache_by": "credentials"}, "needs headers"),
    ],
)
def test_what_a_provider_contradicts(provider: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config({}, auth={"keys": provider})


def test_claims_are_named_as_issuers_name_them() -> None:
    for claim in (
        "cognito:groups",
        "https://example.org/roles",
        "a/b",
        "/realm_access/roles",
        "/kubernetes.io/pod/name",
        "/~01~1",
    ):
        provider = {"type": "jwt", "file": "/k", "issuer": "i", "audience": ["a"], "claim": claim}
        assert config({}, auth={"keys": provider}).auth["keys"].claim == claim


def test_an_issuer_may_have_a_query_in_its_url() -> None:
    provider = {"type": "jwt", "issuer": "i", "audience": ["a"], "url": "https://i/keys?p=b2c_1_sign_in"}
    assert config({}, auth={"keys": provider}).auth["keys"].url == provider["url"]


def test_files_of_keys() -> None:
    key, line = new_key("team-a")
    digest = hashlib.sha256(key.encode()).digest()
    assert list(read_keys(f"\n # x\r\n{line}\r\nb:sha256:{'0' * 64}:infer models:read".encode())) == [
        ("team-a", digest, ()), ("b", bytes(32), ("infer", "models:read"))
    ]  # fmt: skip
    for wrong in (key, f"a:{digest.hex()}", f"a:sha256:{'0' * 63}", f"a b:sha256:{'0' * 64}", f"ä:sha256:{'0' * 64}"):
        with pytest.raises(ValueError, match="line 2 is not NAME:sha256:HEX") as error:
            list(read_keys(f"{line}\n{wrong}".encode()))
        assert key not in str(error.value)
    for name in ("", "a b", "a:b", "#a", "ä"):
        with pytest.raises(TidegateError):
            new_key(name)


def test_a_changed_file_is_another_plan_and_hides_its_content() -> None:
    def plans(line: str) -> tuple[Any, Any]:
        made = config({"auth": {"providers": ["keys"], "allow": ["a"]}})
        provider = provider_plan("keys", made.auth["keys"], Material({Path("/keys"): line.encode()}))
        return provider, access_plan(made.listeners["web"].routes[0].auth, {"keys": provider})

    provider, access = plans(f"a:sha256:{'0' * 64}")
    other, changed = plans(f"a:sha256:{'1' * 64}")
    assert access == AccessPlan(("keys",), (provider.digest,), ("a",))
    assert access != changed
    assert "\\x11" not in repr(other)
    assert access_plan(None, {"keys": provider}) == AccessPlan()
    assert access_plan(None, {}) is None
