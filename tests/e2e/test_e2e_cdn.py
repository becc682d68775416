"""A CDN in front of a real daemon keeps results of inferences, and gives them up when the daemon tells it of a purge.

nginx and Varnish stand for the CDN. The purges come as Cloudflare's API has them; behind the API are bans of Varnish.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from daemon import Daemon, http_listener, route
from ports import free_port, wait_for_port
from versioned_server import VersionedServer

Start = Callable[..., Daemon]

QUESTION = {"inputs": [{"name": "x", "shape": [1], "datatype": "INT32", "data": [7]}]}
OTHER = {"inputs": [{"name": "x", "shape": [1], "datatype": "INT32", "data": [8]}]}
INFER = "/v2/models/m/infer"
NGINX = """{user}daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/client;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_cache_path {folder}/cache keys_zone=results:1m;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{origin};
            proxy_http_version 1.1;
            proxy_cache results;
            add_header X-Cache $upstream_cache_status always;
        }}
    }}
}}
"""
VCL = """vcl 4.1;
backend tidegate {{ .host = "127.0.0.1"; .port = "{origin}"; }}
acl local {{ "127.0.0.1"; }}
sub vcl_recv {{
    if (req.method == "BAN" && client.ip ~ local) {{
        ban("obj.http.Cache-Tag ~ " + req.http.X-Pattern);
        return (synth(200));
    }}
}}
sub vcl_deliver {{
    if (obj.hits > 0) {{ set resp.http.X-Cache = "HIT"; }} else {{ set resp.http.X-Cache = "MISS"; }}
}}
"""


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[str]:
    """The URL of a program that listens on `port` while the block runs."""
    url = f"http://127.0.0.1:{port}"
    with open(log, "ab") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            wait_for_port(port)
            yield url
        finally:
            process.terminate()
            process.wait(20)


@contextlib.contextmanager
def nginx(folder: Path, origin: int) -> Iterator[str]:
    port = free_port()
    user = "user root;\n" if os.geteuid() == 0 else ""  # another one could not reach the test's folder
    (folder / "nginx.conf").write_text(NGINX.format(user=user, folder=folder, port=port, origin=origin))
    with running(["nginx", "-c", str(folder / "nginx.conf")], port, folder / "nginx.out") as url:
        yield url


@contextlib.contextmanager
def varnish(folder: Path, origin: int, port: int = 0) -> Iterator[str]:
    port = port or free_port()
    (folder / "default.vcl").write_text(VCL.format(origin=origin))
    command = ["varnishd", "-F", "-j", "none", "-n", str(folder / "varnish"), "-s", "malloc,64m"]
    command += ["-a", f"127.0.0.1:{port}", "-f", str(folder / "default.vcl")]
    with running(command, port, folder / "varnish.out") as url:
        yield url


def config(server: VersionedServer, **cache: Any) -> dict[str, Any]:
    public = {**route("/v2", "models"), "cache": {"results_by_get": True}}
    operators = {**route("/v2", "models"), "name": "operators", "server_calls": ["models"]}
    return {
        "workers": 2,
        "cache": {"ttl": "1h", "tags_header": "Cache-Tag", **cache},
        "listeners": {"web": http_listener(public), "operators": http_listener(operators)},
        "pools": {"models": {"protocol": "oip", "endpoints": [server.address]}},
    }


def client(url: str = "", **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=20, trust_env=False, **options)


@pytest.mark.parametrize("cdn", [nginx, varnish])
async def test_the_second_get_is_a_hit_at_the_cdn(start: Start, tmp_path: Path, cdn: Any) -> None:
    server = await VersionedServer().start()
    daemon = await asyncio.to_thread(start, config(server))
    with cdn(tmp_path, daemon.port()) as url:
        async with client(url) as clients:
            posted = await clients.post(INFER, json=QUESTION)
            result = posted.url.join(posted.headers["content-location"])  # as clients resolve a relative reference
            answers = [await clients.get(result) for _ in range(3)]
            assert [answer.headers["x-cache"] for answer in answers] == ["MISS", "HIT", "HIT"]
            assert [answer.json() for answer in answers] == [posted.json()] * 3
            tag = answers[2].headers["etag"]
            again = await clients.get(result, headers={"If-None-Match": tag})
            assert (again.status_code, again.content) == (304, b"")
            head = await clients.head(result)
            assert (head.status_code, head.headers["etag"], head.content) == (200, tag, b"")
            # What is not there is not kept, nor what is one client's own.
            other = await clients.post(INFER, json=OTHER)
            own = other.url.join(other.headers["content-location"])
            for path, fields in ((f"{result}x", {}), (str(own), {"Authorization": "Bearer x"})):
                seen = [(await clients.get(path, headers=fields)).headers["x-cache"] for _ in range(2)]
                assert seen == ["MISS"] * 2
    assert server.asked == 2
    await server.stop()


async def test_a_model_that_is_replaced_is_gone_from_the_cdn(start: Start, tmp_path: Path) -> None:
    told: list[str] = []
    varnish_port = free_port()
    edge = f"http://127.0.0.1:{varnish_port}"

    async def purge(request: web.Request) -> web.Response:
        tags = (await request.json())["tags"]
        told.extend(tags)
        async with client() as clients:
            for tag in tags:
                pattern = f"(^|,){tag}(,|$)"
                assert (await clients.request("BAN", edge, headers={"X-Pattern": pattern})).status_code == 200
        return web.json_response({"success": True, "errors": [], "messages": [], "result": {"id": "x"}})

    app = web.Application()
    app.router.add_post("/client/v4/zones/{zone}/purge_cache", purge)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    (tmp_path / "token").write_text("secret\n")
    zone = {"zone": "0" * 32, "token_file": str(tmp_path / "token"), "url": f"http://127.0.0.1:{port}/client/v4"}

    server = await VersionedServer().start()
    daemon = await asyncio.to_thread(start, config(server, purge={"cloudflare": zone}))
    operators = f"http://127.0.0.1:{daemon.port('operators')}"
    with varnish(tmp_path, daemon.port(), varnish_port):
        async with client(edge) as clients:
            results = {}
            for model in ("m", "n"):
                posted = await clients.post(f"/v2/models/{model}/infer", json=QUESTION)
                results[model] = str(posted.url.join(posted.headers["content-location"]))
                seen = [(await clients.get(results[model])).headers["x-cache"] for _ in range(2)]
                assert seen == ["MISS", "HIT"]
            assert "model:models/m" in (await clients.get(results["m"])).headers["cache-tag"].split(",")

            loaded = await clients.post(f"{operators}/v2/repository/models/m/load", content=b"{}")
            assert loaded.status_code == 200
            at_once = await clients.get(results["m"].replace(edge, f"http://127.0.0.1:{daemon.port()}"))
            assert at_once.status_code == 404
            async with asyncio.timeout(20):
                while not told:
                    await asyncio.sleep(0.05)
                while (await clients.get(results["m"])).status_code != 404:
                    await asyncio.sleep(0.05)
            assert told == ["model:models/m"]
            assert (await clients.get(results["n"])).headers["x-cache"] == "HIT"

            posted = await clients.post(INFER, json=QUESTION)
            assert posted.json()["outputs"][0]["data"] == [2]
            answer = await clients.get(results["m"])
            assert answer.json() == posted.json()
    await server.stop()
    await runner.cleanup()


async def test_results_over_http2(start: Start) -> None:
    server = await VersionedServer().start()
    daemon = await asyncio.to_thread(start, config(server))
    async with client(f"http://127.0.0.1:{daemon.port()}", http1=False, http2=True) as clients:
        posted = await clients.post(INFER, json=QUESTION)
        result = posted.url.join(posted.headers["content-location"])
        answer = await clients.get(result)
        assert (answer.http_version, answer.status_code, answer.json()) == ("HTTP/2", 200, posted.json())
        assert answer.headers["cache-control"].startswith("public, max-age=")
        assert answer.headers["cache-tag"] == "pool:models,model:models/m,model:models/m/"
        known = {"If-None-Match": answer.headers["etag"]}
        for method in ("GET", "HEAD"):
            again = await clients.request(method, result, headers=known)
            assert (again.status_code, again.content) == (304, b"")
        head = await clients.head(result)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(answer.content))
        gone = await clients.get(f"{result}x")
        assert (gone.status_code, gone.headers["cache-control"]) == (404, "no-store")
    await server.stop()
    assert server.asked == 1


async def test_results_outlive_the_endpoints(start: Start) -> None:
    """No endpoint is asked: there may be none."""
    server = await VersionedServer().start()
    daemon = await asyncio.to_thread(start, config(server))
    async with client(f"http://127.0.0.1:{daemon.port()}") as clients:
        posted = await clients.post(INFER, json=QUESTION)
        result = posted.url.join(posted.headers["content-location"])
        await server.stop()
        for _ in range(3):
            assert (await clients.get(result)).json() == posted.json()
