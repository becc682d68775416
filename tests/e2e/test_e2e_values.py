"""Values of requests and maps in a running daemon: over TLS and HTTP/2, in the access log, and maps that change on
disk while requests come."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from authority import Authority
from daemon import Daemon, eventually
from traffic import ask_once, load, request

Start = Callable[..., Daemon]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def test_values_over_tls_and_http2_and_in_the_log(
    start: Start, endpoint: Callable[..., Any], tmp_path: Path
) -> None:
    one, log = await endpoint("a"), tmp_path / "access.log"
    authority = Authority()
    cert, key = authority.issue("localhost").write(tmp_path)
    robot = authority.issue(subject="robot", client=True).write(tmp_path, "robot")
    (tmp_path / "clients.pem").write_bytes(authority.pem)
    seen = {
        "X-Tls": "${tls.version} ${tls.sni} ${tls.alpn:-none}",
        "X-Subject": "${tls.client.common_name:-nobody}",
        "X-From": "${client.address} ${request.protocol} ${request.scheme} ${request.uri}",
        "X-Id": "${request.id}",
        "X-By": "${endpoint.address}",
    }
    fields = {"tenant": "${header.x-tenant:-none}", "cipher": "${tls.cipher}", "quoted": '"${query.q}"\\'}
    web = {
        "bind": "127.0.0.1:0",
        "protocol": "https",
        "request_id": True,
        "tls": {
            "certificates": [{"cert": cert, "key": key}],
            "client_auth": "optional",
            "client_ca": str(tmp_path / "clients.pem"),
        },
        "routes": [
            {"match": {"path": {"exact": "/own"}}, "respond": {"body": "${request.method}"}, "log_fields": fields},
            {"pool": "a", "response_headers": {"set": seen}, "log_fields": fields},
        ],
    }
    pools = {"a": {"protocol": "http", "endpoints": [one.address]}}
    daemon = start({"workers": 1, "listeners": {"web": web}, "pools": pools, "log": {"access": str(log)}})
    url = f"https://localhost:{daemon.port()}"
    plain, shown = authority.client_context(), authority.client_context()
    shown.load_cert_chain(*robot)
    async with httpx.AsyncClient(verify=plain) as client:
        first = await client.get(url + "/a?q=%22", headers={"X-Tenant": 'ac"me\u00fc'.encode("latin-1")})
        own = await client.get(url + "/own")
    async with httpx.AsyncClient(verify=shown, http2=True) as client:
        second = await client.get(url + "/b")
    assert first.headers["x-tls"] == "TLSv1.3 localhost http/1.1"
    assert first.headers["x-subject"] == "nobody"
    assert first.headers["x-from"] == "127.0.0.1 HTTP/1.1 https /a?q=%22"
    assert first.headers["x-by"] == one.address
    assert (own.status_code, own.text) == (200, "GET")
    assert second.http_version == "HTTP/2"
    assert second.headers["x-tls"] == "TLSv1.3 localhost h2"
    assert second.headers["x-subject"] == "robot"
    assert second.headers["x-from"] == "127.0.0.1 HTTP/2.0 https /b"
    await asyncio.to_thread(eventually, lambda: len(lines_of(log)) == 3, "three lines")
    lines = lines_of(log)
    assert [line["request_id"] for line in (lines[0], lines[2])] == [first.headers["x-id"], second.headers["x-id"]]
    assert lines[0]["fields"] == {
        "tenant": 'ac"me\u00fc', "cipher": "TLS_AES_256_GCM_SHA384", "quoted": '"%22"\\',
    }  # fmt: skip
    assert [line["fields"]["tenant"] for line in lines[1:]] == ["none", "none"]


async def test_a_map_that_changes_on_disk(start: Start, endpoint: Callable[..., Any], tmp_path: Path) -> None:
    one, two = await endpoint("one"), await endpoint("two")
    tenants = tmp_path / "tenants.map"

    def write(text: str) -> None:
        new = tmp_path / "new"
        new.write_text(text)
        new.rename(tenants)

    write("# host pool\na.org one\n")
    shares = [{"pool": "one"}, {"pool": "two", "weight": 0}]
    routes = [{"pools": shares, "pool_by": "${map.tenants:-${header.x-pool}}"}]
    web = {"bind": "127.0.0.1:0", "protocol": "http", "routes": routes}
    pools = {name: {"protocol": "http", "endpoints": [each.address]} for name, each in (("one", one), ("two", two))}
    maps = {"tenants": {"key": "${request.host}", "file": str(tenants), "match": "domain"}}
    daemon = start({"workers": 2, "listeners": {"web": web}, "pools": pools, "maps": maps})
    port = daemon.port()

    async def asked() -> bytes:
        return (await ask_once(port, request("GET", "/", Host="www.a.org"))).body

    async def answers(name: bytes) -> None:
        async with asyncio.timeout(30):
            while {await asked() for _ in range(8)} != {name}:
                await asyncio.sleep(0.1)

    await answers(b"one")
    for name in ("two", "three", "four"):
        await ask_once(port, request("GET", "/", Host="b.org", X_Pool=name))
    (unknown,) = daemon.metrics("tidegate_route_unknown_pools_total").values()
    assert unknown == 2
    assert "pool_by names 'three', which is none of its pools" in daemon.log
    async with load(port, [request("GET", "/", Host="www.a.org")], clients=4) as sent:
        write("a.org two\n")
        await answers(b"two")
    assert sent.failures == []
    write("a.org one\nb.org two\na.org two\n")
    await asyncio.to_thread(eventually, lambda: "line 3: 'a.org' is there twice" in daemon.log, "the mistake's line")
    assert await asked() == b"two"
    assert "changed files are not used, the old ones stay: maps.tenants.file:" in daemon.log
    assert "'a.org' is there twice" in json.dumps(daemon.status())
    daemon.kill_worker()
    await answers(b"two")  # a worker that starts meanwhile has the entries in force
    write("a.org one\n")
    await answers(b"one")
