"""Balancing: hashes, turns, backups, sticky clients, retries, rate limits, mirrors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from daemon import Daemon, eventually
from peer_site import Answer, Echo, ask
from scenarios import from_haproxy, from_nginx

BAD = "127.0.0.1:1"  # nothing listens there


@pytest.fixture(scope="module")
def echoes() -> dict[str, Echo]:
    made = [Echo(f"s{i}") for i in range(1, 5)]
    made += [
        Echo("fails", 503),
        Echo("fails2", 503),
        Echo("missing", 404),
        Echo("copy", 500),
        Echo("app1", Set_Cookie="SID=one; Path=/"),
    ]
    return {each.name: each for each in made}


@pytest.fixture(scope="module")
def daemon(run: Callable[..., Daemon], echoes: dict[str, Echo]) -> Daemon:
    four = [echoes[f"s{i}"].address for i in range(1, 5)]

    def hashed(key: dict[str, Any], endpoints: list[Any], kind: str = "ring_hash") -> dict[str, Any]:
        return {"endpoints": endpoints, "policy": {"type": kind, "key": key}}

    turns = {"policy": "round_robin"}
    failing = {**turns, "avoid_failing": False, "outlier": "off"}  # they go on having their turns
    pools = {
        "uri": hashed({"path": True}, four),
        "path-query": hashed({"uri": True}, four, "maglev"),
        "depth": hashed({"path": {"depth": 1}}, four),
        "arg": hashed({"query": "a"}, four[:3]),
        "arg-less": hashed({"query": "a"}, [four[0], four[2]]),
        "text": hashed({"text": "${request.host}${query.a}"}, four),
        "source": hashed({"source": {"ipv4_prefix": 24}}, four),
        "turns": {"endpoints": [{"address": four[0], "weight": 3}, four[1]], "policy": "round_robin"},
        "backup": {
            "endpoints": [{"address": BAD}, {"address": four[1], "priority": 1}],
            "priorities": {"spill": "none"},
            "health": {"type": "tcp", "interval": "200ms", "fall": 1},
        },
        "sticky": {"endpoints": four, **turns, "affinity": {"cookie": {"name": "SRVID"}}},
        "learn": {"endpoints": [echoes["app1"].address, four[1]], **turns, "affinity": {"learn": {"cookie": "SID"}}},
        "next": {"endpoints": [echoes["fails"].address, four[1]], **failing},
        "all-fail": {"endpoints": [echoes["fails"].address, echoes["fails2"].address], **failing},
        "missing": {"endpoints": [echoes["missing"].address, four[1]], **failing},
        "refuses": {"endpoints": [BAD, four[1]], **failing},
        "one": {"endpoints": [four[0]]},
        "copy": {"endpoints": [echoes["copy"].address]},
    }
    retry = {"on": ["connect", "5xx"], "attempts": 3, "budget": 100, "backoff": {"base": 0}}
    limit = {"rate": "1/m", "burst": 2}
    more: dict[str, dict[str, Any]] = {
        "next": {"retry": retry},
        "all-fail": {"retry": retry},
        "missing": {"retry": retry},
    }
    routes = [
        {"match": {"path": {"prefix": f"/{name}/"}}, "pool": name, "hedge": "off", **more.get(name, {})}
        for name in pools
    ]
    routes += [
        {"match": {"path": {"prefix": "/again/"}}, "pool": "next", "hedge": "off", "retry": retry, "idempotent": True},
        {"match": {"path": {"prefix": "/keyed/"}}, "pool": "next", "hedge": "off", "retry": retry,
         "idempotency_key": True},
        {"match": {"path": {"prefix": "/off/"}}, "pool": "next", "hedge": "off", "retry": "off"},
        {"match": {"path": {"prefix": "/limit/"}}, "pool": "one", "rate_limit": limit},
        {"match": {"path": {"prefix": "/limit2/"}}, "pool": "one",
         "rate_limit": {**limit, "burst": 1, "key": {"query": "a"}}},
        {"match": {"path": {"prefix": "/limit3/"}}, "pool": "one",
         "rate_limit": {**limit, "burst": 1, "key": {"text": "${client.address}${request.path}"}}},
        {"match": {"path": {"prefix": "/mirror/"}}, "pool": "one", "mirror": {"pool": "copy"}},
    ]  # fmt: skip
    web = {"bind": "127.0.0.1:0", "protocol": "http", "routes": routes}
    return run({"listeners": {"web": web}, "pools": {n: {"protocol": "http", **p} for n, p in pools.items()}})


@pytest.fixture(scope="module")
def get(daemon: Daemon) -> Callable[..., Answer]:
    port = daemon.port()
    return lambda *arguments, **more: ask(port, *arguments, **more)


@from_haproxy("balance/balance-uri.vtc", "balance/balance-uri-path-only.vtc")
def test_a_path_has_one_endpoint(get: Callable[..., Answer]) -> None:
    """Requests for one path go to one endpoint, whatever their query is; different paths go to different endpoints."""
    paths = [f"/uri/url{i}" for i in range(30)]
    first = [get(path).name for path in paths]
    assert [get(f"{path}?ignore=this-arg").name for path in paths] == first
    assert len(set(first)) >= 3


@from_nginx("upstream_hash.t")
def test_a_hash_of_the_whole_uri(get: Callable[..., Answer]) -> None:
    """With the query in the key, queries of one path go to different endpoints; with the first directory alone, paths
    below it go to one."""
    queries = [f"/path-query/?q={i}" for i in range(30)]
    first = [get(query).name for query in queries]
    assert len(set(first)) >= 3
    assert [get(query).name for query in queries] == first
    assert len({get(f"/depth/{i}").name for i in range(12)}) == 1


@from_nginx("upstream_hash.t", "stream_upstream_hash.t")
def test_a_consistent_hash_moves_few(get: Callable[..., Answer]) -> None:
    """Without one of three endpoints its keys spread over the others; the keys of the others stay."""
    for i in range(40):
        before, after = get(f"/arg/?a={i}").name, get(f"/arg-less/?a={i}").name
        assert after == before if before != "s2" else after in ("s1", "s3")


@from_nginx("upstream_hash.t")
def test_a_hash_of_a_text(get: Callable[..., Answer]) -> None:
    """The key is a text of several values; the same text goes to one endpoint, wherever it comes from."""
    names = [get(f"/text/{i}?a=1", host="h.org").name for i in range(8)]
    assert len(set(names)) == 1
    assert len({get(f"/text/?a={i}", host="h.org").name for i in range(30)}) >= 3


@from_nginx(
    "upstream_ip_hash.t",
    differs=("The prefix that counts is a setting; without it all of the address counts."),
)
def test_a_network_has_one_endpoint(daemon: Daemon) -> None:
    """Clients of one /24 network go to one endpoint, those of different networks to different ones."""
    port = daemon.port()
    assert len({ask(port, "/source/", source=f"127.0.0.{i}").name for i in range(2, 8)}) == 1
    assert len({ask(port, "/source/", source=f"127.0.{i}.2").name for i in range(30)}) >= 3


@from_haproxy("balance/balance-rr.vtc")
@from_nginx("upstream.t")
def test_turns_by_weight(get: Callable[..., Answer]) -> None:
    """Endpoints have their turns by weight."""
    assert Counter(get("/turns/").name for _ in range(12)) == {"s1": 9, "s2": 3}


@from_nginx("upstream.t")
def test_a_backup(daemon: Daemon, get: Callable[..., Answer]) -> None:
    """A backup answers while the first server is down."""
    eventually(lambda: daemon.pool("backup")["endpoints"][0]["health"] == "down", "the end of the first")
    assert {get("/backup/").name for _ in range(4)} == {"s2"}


@from_haproxy(
    "http-cookies/cookie_insert_indirect.vtc",
    differs="The cookie's value is signed and does not tell the endpoint's name or address.",
)
@from_nginx("upstream_sticky.t")
def test_a_cookie_keeps_a_client(get: Callable[..., Answer]) -> None:
    """A client without a cookie, or with a made-up one, gets one; with it the client stays, and the endpoint sees the
    other cookies only."""
    first = get("/sticky/", "Cookie: SRVID=s2; other=1")
    assert first.seen("cookie") == ["other=1"]
    cookie = first.fields["set-cookie"].partition(";")[0]
    assert cookie.startswith("SRVID=")
    again = [get("/sticky/", f"Cookie: a=b; {cookie}") for _ in range(8)]
    assert {answer.name for answer in again} == {first.name}
    assert all("set-cookie" not in answer.fields and answer.seen("cookie") == ["a=b"] for answer in again)


@from_nginx("upstream_sticky_learn.t")
def test_a_session_is_learned(get: Callable[..., Answer]) -> None:
    """A session that an endpoint's answer begins brings its later requests to that endpoint; others have turns."""
    assert "app1" in {get("/learn/").name for _ in range(4)}
    assert {get("/learn/", "Cookie: SID=one").name for _ in range(8)} == {"app1"}
    assert len({get("/learn/", "Cookie: SID=unknown").name for _ in range(8)}) == 2


@from_nginx(
    "proxy_next_upstream.t",
    differs="Answers of 4xx but 429 go to the client: they are about the request, not the server.",
)
def test_a_failure_goes_to_the_next(get: Callable[..., Answer]) -> None:
    """An answer of 503 is asked of the next endpoint; where all fail, the last answer goes to the client."""
    assert {(get("/next/").status, get("/next/").name) for _ in range(3)} == {(200, "s2")}
    assert get("/all-fail/").status == 503
    assert {get("/missing/").status for _ in range(4)} == {200, 404}


@from_nginx("proxy_next_upstream_tries.t")
def test_retries_are_bounded(get: Callable[..., Answer], echoes: dict[str, Echo]) -> None:
    """A request is tried as often as the route says, and not at all with `off`."""
    both = [echoes[name].heads for name in ("fails", "fails2")]
    before = sum(map(len, both))
    get("/all-fail/")
    assert sum(map(len, both)) - before == 4
    assert {get("/off/").status for _ in range(4)} == {200, 503}


@from_nginx("proxy_non_idempotent.t")
def test_what_is_repeated(get: Callable[..., Answer]) -> None:
    """A POST is not repeated after an answer of 503, unless the route says that it may be, or that its key makes it so;
    one whose endpoint takes no connection goes to the next, since nothing was sent."""
    assert {get("/refuses/", method="POST", body="x").name for _ in range(4)} == {"s2"}
    assert {get("/next/", method="POST", body="x").status for _ in range(4)} == {200, 503}
    assert {get("/again/", method="POST", body="x").status for _ in range(4)} == {200}
    key = "Idempotency-Key: 1"
    assert {get("/keyed/", key, method="POST", body="x").status for _ in range(4)} == {200}
    assert {get("/keyed/", method="POST", body="x").status for _ in range(4)} == {200, 503}


@from_nginx(
    "limit_req.t",
    differs=(
        "The answer is 429 (nginx: 503) with `Retry-After`; without `delay_after` requests do not wait. `burst` "
        "counts the first request, too."
    ),
)
def test_a_rate(daemon: Daemon, get: Callable[..., Answer]) -> None:
    """Requests over the rate are refused and do not count; another client has a limit of its own."""
    assert [get("/limit/").status for _ in range(4)] == [200, 200, 429, 429]
    assert 1 <= int(get("/limit/").fields["retry-after"]) <= 60
    assert ask(daemon.port(), "/limit/", source="127.0.0.2").status == 200


@from_nginx(
    "limit_req2.t",
    differs="A request without a key counts for its source; in nginx it has no limit, which a client would choose.",
)
def test_rates_by_a_key(get: Callable[..., Answer]) -> None:
    """Each value of a parameter has a limit of its own; so has each client and path by a text."""
    assert [get(f"/limit2/?a={a}").status for a in (1, 1, 2, 2)] == [200, 429, 200, 429]
    assert [get("/limit2/").status for _ in range(2)] == [200, 429]
    assert [get(f"/limit3/{path}").status for path in ("a", "a", "b", "b")] == [200, 429, 200, 429]


@from_nginx("mirror.t", "mirror_proxy.t")
def test_a_copy(get: Callable[..., Answer], echoes: dict[str, Echo]) -> None:
    """A copy of each request, body included, goes to another pool, whose failure the client does not see."""
    before = len(echoes["copy"].heads)
    answer = get("/mirror/a?b=c", "X-A: 1", method="POST", body="body")
    assert (answer.status, answer.name) == (200, "s1")
    eventually(lambda: len(echoes["copy"].heads) > before, "the copy")
    copy = echoes["copy"].heads[-1]
    assert (copy["method"], copy["target"], copy["body"]) == ("POST", "/mirror/a?b=c", "body")
    assert ("x-a", "1") in copy["fields"]
