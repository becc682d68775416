"""`tidegate explain` says what then happens."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
from collections.abc import Callable
from typing import Any

from daemon import Daemon, eventually, http_listener
from traffic import ask_once, request

Start = Callable[..., Daemon]


def tidegate(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, as an operator types it."""
    return daemon.command(*arguments)


async def explained(daemon: Daemon, *arguments: str) -> dict[str, Any]:
    done = await asyncio.to_thread(tidegate, daemon, "explain", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


async def refused(daemon: Daemon, *arguments: str) -> str:
    done = await asyncio.to_thread(tidegate, daemon, "explain", *arguments)
    assert done.returncode == 1, done.stdout
    asked, said = done.stderr.splitlines()
    assert asked == f"tidegate: asked the daemon at unix:{daemon.socket}, which runs {daemon.path}"
    return said.removeprefix("tidegate: ")


def site(addresses: list[str]) -> dict[str, Any]:
    def pool(policy: Any, **settings: Any) -> dict[str, Any]:
        return {"protocol": "http", "policy": policy, "endpoints": addresses, **settings}

    routes = [
        {"name": "tenants", "match": {"host": "a.test", "path": {"prefix": "/v2/"}}, "pool": "keyed"},
        {"name": "posts", "match": {"path": {"exact": "/p"}, "method": "POST"}, "pool": "plain"},
        {"name": "split", "match": {"path": {"prefix": "/s"}}, "pools": [
            {"pool": "plain", "weight": 3}, {"pool": "keyed", "weight": 1},
        ]},
        {"name": "fixed", "match": {"headers": {"x-fixed": "yes"}}, "respond": {"status": 418}},
        {"name": "groups", "respond": {"status": 204}, "match": {
            "path": {"exact": "/g"},
            "source": "127.0.0.0/8",
            "headers": {"x-empty": "", "x-agent": {"map": "bots"}},
            "tables": {"clients": {"requests": {"below": 5}}},
            "any": [{"host": {"suffix": ".test"}, "method": ["GET", "PUT"]}, {"query": {"v": {"one_of": ["1", "2"]}}}],
            "none": [{"cookies": {"bad": {"present": True}}, "any": [{"path": "/x"}, {"not_source": "10.0.0.0/8"}]}],
        }},
        {"name": "chance", "match": {"path": {"prefix": "/r"}}, "pool": "chance"},
    ]  # fmt: skip
    for route in routes:
        if "respond" not in route:
            route["expose_endpoint"] = True
    return {
        "maps": {"bots": {"key": "${header.x-agent}", "entries": {"curl": ""}}},
        "tables": {"clients": {"key": "${client.address}", "store": ["requests"]}},
        "listeners": {
            "web": http_listener(*routes, normalize_path={}, track=["clients"]),
            "raw": {"bind": "127.0.0.1:0", "protocol": "tcp", "pool": "bytes"},
        },
        "pools": {
            "keyed": pool({"type": "maglev", "key": {"header": "x-session"}}),
            "plain": pool("least_request"),
            "chance": pool("random"),
            "bytes": {"protocol": "tcp", "endpoints": addresses},
        },
    }


async def test_the_choice_by_a_key_is_the_one_that_is_made(start: Start, endpoint: Callable[..., Any]) -> None:
    addresses = [(await endpoint(name)).address for name in "abc"]
    daemon = await asyncio.to_thread(start, site(addresses))
    port = await asyncio.to_thread(daemon.port)
    chosen = set()
    for session in ("s1", "s2", "s3", "s4", "s5", ""):
        headers = ("-H", f"X-Session: {session}") if session else ()
        found = await explained(daemon, "web", "/v2//x", "--host", "A.test:80", *headers)
        fields = {"x_session": session} if session else {}
        answer = await ask_once(port, request("GET", "/v2/x", **{"Host": "a.test", **fields}))
        choice = found["pool"]["choice"]
        assert (choice["address"], choice["why"]) == (answer.headers["x-tidegate-endpoint"], "it has the lowest score")
        assert found["route"] == {
            "name": "tenants", "matched": ["host a.test", "path prefix /v2/"], "target": "/v2/x", "priority": "normal",
            "timeout_ms": None, "hedge": None,
            "retry": {
                "attempts": 1, "on": ["connect", "reset"], "per_attempt_timeout_ms": None, "budget_percent": 20,
            },
        }  # fmt: skip
        place = "header x-session" if session else "source, since there is no header x-session"
        assert found["pool"]["key"] == {"from": place, "value": session or "127.0.0.1"}
        chosen.add(choice["address"])
    assert len(chosen) > 1
    given = await explained(daemon, "keyed", "--key", "s1")
    same = await explained(daemon, "web", "/v2/x", "--host", "a.test", "-H", "X-Session: s1")
    assert (given["route"], given["pool"]["choice"]) == (None, same["pool"]["choice"])


async def test_candidates_show_why_they_are_none(start: Start, endpoint: Callable[..., Any]) -> None:
    first, second, third = [await endpoint(name, 60) for name in "abc"]
    daemon = await asyncio.to_thread(start, site([e.address for e in (first, second, third)]))
    port = await asyncio.to_thread(daemon.port)
    assert (await asyncio.to_thread(tidegate, daemon, "drain", "plain", third.address)).returncode == 0
    waiting = asyncio.create_task(ask_once(port, request("POST", "/p")))
    await asyncio.to_thread(eventually, lambda: first.active + second.active == 1, "a request under way")
    busy, idle = (first, second) if first.active else (second, first)
    for worker in ("0", "1"):
        found = await explained(daemon, "web", "/p", "-X", "POST", "--worker", worker)
        assert found["worker"] == int(worker)
        rows = {row["address"]: row for row in found["pool"]["endpoints"]}
        assert (rows[busy.address]["in_flight"], rows[busy.address]["score"]) == (1, 2)
        assert (rows[idle.address]["score"], rows[idle.address]["best"]) == (1, True)
        row = rows[third.address]
        assert (row["available"], row["admin"], row["health"], row["score"]) == (False, "drain", "unchecked", None)
        assert found["pool"]["choice"] == {"address": idle.address, "why": "it has the lowest score"}
    text = (await asyncio.to_thread(tidegate, daemon, "explain", "web", "/p", "-X", "POST")).stdout
    assert "route    posts: path exact /p, method POST; no more particular route matches" in text
    assert f"choice   {idle.address}: it has the lowest score" in text
    assert re.search(rf"{re.escape(third.address)} .* draining", text)
    assert "retries  up to 1 more on connect, reset" in text
    waiting.cancel()


async def test_what_leads_to_no_choice_says_why(start: Start, endpoint: Callable[..., Any]) -> None:
    addresses = [(await endpoint(name)).address for name in "ab"]
    daemon = await asyncio.to_thread(start, site(addresses))
    nothing = await explained(daemon, "web", "/nowhere")
    assert (nothing["route"], nothing["pool"], nothing["reason"]) == (None, None, "no route matches: 404")
    assert (await explained(daemon, "web", "/p"))["reason"] == "a route matches but for its method: 405"
    fixed = await explained(daemon, "web", "/x", "-H", "x-fixed: yes")
    assert (fixed["route"]["name"], fixed["reason"]) == ("fixed", "the route answers itself: 418")
    assert fixed["route"]["matched"] == ["header x-fixed exact yes"]
    groups = ["/g?v=2", "-H", "x-empty:", "-H", "x-agent: curl", "-H", "cookie: good=1"]
    assert (await explained(daemon, "web", *groups))["route"]["matched"] == [
        "path exact /g", "source in 127.0.0.0/8", "header x-agent in map bots", 'header x-empty exact ""',
        "table clients requests below 5",
        "any of (method one of GET, PUT and host suffix .test) or (query v one of 1, 2)",
        "none of (cookie bad present and any of (path exact /x) or (not source in 10.0.0.0/8))",
    ]  # fmt: skip
    text = (await asyncio.to_thread(tidegate, daemon, "explain", "web", *groups)).stdout
    assert "retries" not in text  # the route answers itself
    split = await explained(daemon, "web", "/s")
    assert (split["pool"], split["reason"].partition(";")[0]) == (None, "the route splits: plain 75 %, keyed 25 %")
    share = await explained(daemon, "web", "/s", "--pool", "keyed")
    assert share["pool"]["name"] == "keyed"
    chance = (await explained(daemon, "web", "/r"))["pool"]
    assert (chance["choice"]["address"], chance["rule"]) == (None, "one drawn by weight")
    assert [row["note"] for row in chance["endpoints"]] == ["50.0% of the draws"] * 2
    equal = (await explained(daemon, "raw"))["pool"]
    assert equal["choice"] == {"address": None, "why": "2 are equally good: whose turn it is"}
    text = (await asyncio.to_thread(tidegate, daemon, "explain", "raw")).stdout
    assert "choice   not certain: 2 are equally good: whose turn it is" in text
    for address in addresses:
        await asyncio.to_thread(tidegate, daemon, "drain", "bytes", address)
    text = (await asyncio.to_thread(tidegate, daemon, "explain", "raw")).stdout
    assert "choice   none: no endpoint takes requests now" in text

    assert await refused(daemon, "wen") == "there is no listener and no pool 'wen'; did you mean web?"
    assert await refused(daemon, "web", "/x y") == "a method, path, host or header holds what no request can"
    assert await refused(daemon, "web", "-H", "a: b\r\nc: d") == (
        "a method, path, host or header holds what no request can"
    )
    assert await refused(daemon, "web", "x/y") == "the path 'x/y' does not begin with /"
    assert await refused(daemon, "web", "-H", ": b") == "a header has no name"
    unnamed = await asyncio.to_thread(tidegate, daemon, "explain", "web", "-H", "x-session=s1")
    assert unnamed.returncode == 2
    assert "'x-session=s1' is no NAME: VALUE" in unnamed.stderr
    assert await refused(daemon, "web", "--source", "nobody") == "'nobody' is not an IP address"
    unknown = await refused(daemon, "web", "--value", "tls.sni=a.org", "--value", "request.path=/")
    assert unknown.startswith("'request.path' is no value that can be given; there are ")
    assert await explained(daemon, "keyed", "--value", "tls.sni=a.org") == await explained(daemon, "keyed")
    assert await refused(daemon, "web", "--worker", "7") == "worker 7 is not running"
    code, _ = await asyncio.to_thread(daemon.admin, "/api/v1/explain", "POST")
    assert code == 400


async def test_a_daemon_that_stops_says_so(start: Callable[..., Daemon], endpoint: Callable[..., Any]) -> None:
    slow = await endpoint("a", 600)
    daemon = start(site([slow.address]))
    _, writer = await asyncio.open_connection("127.0.0.1", daemon.port())
    writer.write(request("GET", "/s"))
    await asyncio.to_thread(eventually, lambda: slow.active == 1, "the request")
    daemon.process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(eventually, lambda: daemon.status()["state"] == "stopping", "the drain")
    for target in ("web", "plain"):
        assert await refused(daemon, target) == "the daemon is stopping: it takes no new connections"
    code, body = await asyncio.to_thread(daemon.admin, "/api/v1/explain", "POST", '{"pool": "plain"}')
    assert (code, json.loads(body)["error"]) == (503, "the daemon is stopping: it takes no new connections")
    writer.close()
    assert await asyncio.to_thread(daemon.process.wait, 60) == 0
