"""A model that was loaded, unloaded or replaced is never answered for by the one before it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from authority import Authority, server_context
from daemon import Daemon, digits_pool, eventually, http_listener, route
from ports import free_port
from traffic import Answer, Client, ask_once, digit_request, digit_samples, request
from versioned_server import VersionedServer

Start = Callable[..., Daemon]


def config(*servers: VersionedServer, **pool: Any) -> dict[str, Any]:
    operators = {**route("/v2", "models"), "name": "operators", "server_calls": ["models"]}
    return {
        "workers": 2,
        "cache": {"ttl": "1h"},
        "listeners": {"web": http_listener(route("/v2", "models")), "operators": http_listener(operators)},
        "pools": {"models": {"protocol": "oip", "endpoints": [server.address for server in servers], **pool}},
    }


def infer(model: str, value: int = 0) -> bytes:
    tensor = {"name": "x", "shape": [1], "datatype": "INT32", "data": [value]}
    return request("POST", f"/v2/models/{model}/infer", {"inputs": [tensor]})


def release(answer: Answer) -> int:
    assert answer.status == 200, answer
    return int(answer.json["outputs"][0]["data"][0])


async def test_a_load_under_traffic(start: Start) -> None:
    servers = [await VersionedServer(slow=0.02).start() for _ in range(2)]
    daemon = await asyncio.to_thread(start, config(*servers))
    port, operators = daemon.port(), daemon.port("operators")
    least, old, hits = 1, [], 0
    going = True

    async def client(seed: int) -> None:
        nonlocal hits
        chosen, one = random.Random(seed), Client(port)
        while going:
            wanted = least  # of a request that is sent from now on
            answer = await one.ask(infer("m", chosen.randrange(10)))
            hits += "hit" in (answer.cache or "")
            if release(answer) < wanted:
                old.append((wanted, release(answer), answer.cache))
        one.close()

    clients = [asyncio.create_task(client(seed)) for seed in range(16)]
    beside = [infer("n", value) for value in range(5)]
    for message in beside:
        await ask_once(port, message)
    for loaded in range(2, 12):
        before = hits
        await asyncio.to_thread(eventually, lambda before=before: hits > before + 50, "answers of the cache")
        done = await ask_once(operators, request("POST", "/v2/repository/models/m/load", b"{}"))
        assert done.status == 200, done
        least = loaded
    await asyncio.sleep(0.2)
    going = False
    await asyncio.gather(*clients)
    assert not old
    assert [(await ask_once(port, message)).cache for message in beside] == ["tidegate; hit"] * 5, "another model's"
    for server in servers:
        await server.stop()


async def test_a_model_that_is_unloaded(start: Start) -> None:
    server = await VersionedServer().start()
    daemon = await asyncio.to_thread(start, config(server))
    port = daemon.port()
    assert [(await ask_once(port, infer("m"))).status for _ in range(2)] == [200, 200]
    done = await ask_once(daemon.port("operators"), request("POST", "/v2/repository/models/m/unload", b"{}"))
    assert done.status == 200
    assert (await ask_once(port, infer("m"))).status == 404
    await server.stop()


async def replaced(
    start: Start, servers: list[VersionedServer], change: Callable[[], Any], **pool: Any
) -> list[Answer]:
    """Answers for m and n before something changes behind the daemon's back, and once one of m is another."""
    daemon = await asyncio.to_thread(start, config(*servers, **pool))
    port = daemon.port()
    for model in ("m", "n"):
        assert release(await ask_once(port, infer(model))) == 1
        assert (await ask_once(port, infer(model))).cache == "tidegate; hit"
    await asyncio.sleep(0.3)  # the first look
    done = change()
    if done is not None:
        await done

    async def another() -> Answer:
        while True:
            answer = await ask_once(port, infer("m"))
            if answer.status == 200 and release(answer) != 1:
                return answer
            await asyncio.sleep(0.1)

    async with asyncio.timeout(40):
        return [await another(), await ask_once(port, infer("n"))]


async def test_another_version_behind_our_back(start: Start) -> None:
    server = await VersionedServer().start()

    def change() -> None:
        server.versions["m"], server.releases["m"] = "2", 2

    m, n = await replaced(start, [server], change)
    assert release(m) == 2
    assert n.cache == "tidegate; hit", "another model's"
    await server.stop()


async def test_another_version_at_a_server_without_an_index(start: Start) -> None:
    server = await VersionedServer(index=False).start()

    def change() -> None:
        server.versions["m"], server.releases["m"] = "2", 2

    health = {"type": "oip", "interval": "200ms", "models": ["m", "n"]}
    m, n = await replaced(start, [server], change, health=health)
    assert (release(m), n.cache) == (2, "tidegate; hit")
    await server.stop()


async def test_a_model_that_checks_saw_go_and_come(start: Start) -> None:
    server = await VersionedServer().start()

    async def change() -> None:
        del server.releases["m"]
        await asyncio.sleep(0.6)
        server.releases["m"] = 2

    health = {"type": "oip", "interval": "100ms", "models": "index"}
    m, n = await replaced(start, [server], change, health=health)
    assert (release(m), n.cache) == (2, "tidegate; hit")
    await server.stop()


async def test_an_endpoint_that_was_down(start: Start) -> None:
    servers = [await VersionedServer().start()]

    async def change() -> None:
        await servers[0].stop()
        await asyncio.sleep(1)
        servers.append(await VersionedServer(releases={"m": 2, "n": 2}).start(servers[0].port))

    health = {"type": "oip", "interval": "100ms", "fall": 1, "rise": 1}
    m, n = await replaced(start, servers[:1], change, health=health)
    assert (release(m), release(n)) == (2, 2)
    await servers[1].stop()


async def test_a_cdn_is_told_over_tls(start: Start, tmp_path: Path) -> None:
    """Cloudflare's API, as its documentation of purge_cache has it, by a server with a certificate of our own."""
    told: list[dict[str, Any]] = []

    async def purge(request_: web.Request) -> web.Response:
        assert request_.headers["Authorization"] == "Bearer secret"
        told.append(await request_.json())
        result = {"id": request_.match_info["zone"]}
        return web.json_response({"success": True, "errors": [], "messages": [], "result": result})

    authority = Authority()
    app = web.Application()
    app.router.add_post("/client/v4/zones/{zone}/purge_cache", purge)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    tls = server_context(authority.issue("localhost"), tmp_path)
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
    trusted, token = tmp_path / "ca.pem", tmp_path / "token"
    trusted.write_bytes(authority.pem)
    token.write_text("secret\n")

    server = await VersionedServer().start()
    made = config(server)
    zone = {"zone": "0" * 32, "token_file": str(token), "url": f"https://localhost:{port}/client/v4"}
    made["cache"]["purge"] = {"cloudflare": zone}
    daemon = await asyncio.to_thread(start, made, shell=f"export SSL_CERT_FILE={trusted}")
    load = request("POST", "/v2/repository/models/m/load", b"{}")
    assert (await ask_once(daemon.port("operators"), load)).status == 200

    async def until(count: int) -> None:
        async with asyncio.timeout(20):
            while len(told) < count:
                await asyncio.sleep(0.05)

    await until(1)
    done = await asyncio.to_thread(daemon.command, "cache", "purge", "--tag", "own")
    assert done.returncode == 0
    await until(2)
    assert told == [{"tags": ["model:models/m"]}, {"tags": ["own"]}]
    counted = {dict(labels)["result"]: n for labels, n in daemon.metrics("tidegate_cdn_purges_total").items()}
    assert counted == {"done": 2, "failed": 0}
    text = (await asyncio.to_thread(daemon.command, "cache", "stats")).stdout
    assert "CDN        Cloudflare: told 2 times, 0 tags wait" in text
    await server.stop()
    await runner.cleanup()


async def test_answers_outlive_a_restart(start: Start, tmp_path: Path) -> None:
    server = await VersionedServer().start()
    made = config(server)
    made["cache"]["snapshot"] = str(tmp_path / "snapshot")

    async def fresh() -> Daemon:
        return await asyncio.to_thread(start, made)

    async def settled(daemon: Daemon, words: str) -> None:
        await asyncio.to_thread(eventually, lambda: words in daemon.log, words)

    async def stop(daemon: Daemon) -> None:
        assert await asyncio.to_thread(daemon.stop) == 0

    daemon = await fresh()
    for model in ("m", "n"):
        assert release(await ask_once(daemon.port(), infer(model))) == 1
    await asyncio.to_thread(eventually, lambda: server.described > 2, "a look at the models")
    await stop(daemon)
    assert "2 answers of the cache are kept" in daemon.log
    assert (tmp_path / "snapshot").stat().st_mode & 0o777 == 0o600

    daemon = await fresh()
    await settled(daemon, "2 of 2 answers from before are in the cache")
    assert not (tmp_path / "snapshot").exists()
    assert [(await ask_once(daemon.port(), infer(model))).cache for model in ("m", "n")] == ["tidegate; hit"] * 2
    await stop(daemon)

    server.versions["m"], server.releases["m"] = "2", 2  # while no daemon runs
    daemon = await fresh()
    answer = await ask_once(daemon.port(), infer("m"))
    assert (release(answer), answer.cache) == (2, "tidegate; fwd=miss; stored")
    await asyncio.to_thread(
        eventually, lambda: asyncio.run(ask_once(daemon.port(), infer("n"))).cache == "tidegate; hit", "the other model"
    )
    daemon.process.kill()
    await asyncio.to_thread(daemon.process.wait, 20)

    daemon = await fresh()  # after a death there is none
    assert (await ask_once(daemon.port(), infer("n"))).cache == "tidegate; fwd=miss; stored"
    await stop(daemon)

    (tmp_path / "snapshot").write_bytes(b"something else")
    (tmp_path / "snapshot").chmod(0o600)
    daemon = await fresh()
    assert "is not used, the cache begins empty: it is no snapshot" in daemon.log
    assert (await ask_once(daemon.port(), infer("n"))).cache == "tidegate; fwd=miss; stored"
    await server.stop()


async def test_answers_of_own_model_servers_outlive_a_restart(start: Start, tmp_path: Path) -> None:
    made = {
        "cache": {"snapshot": str(tmp_path / "snapshot"), "ttl": "1h"},
        "listeners": {"web": http_listener(route("/v2", "digits"))},
        "pools": {"digits": digits_pool(min=1)},
    }
    message = digit_request(digit_samples()[0]["image"])
    daemon = await asyncio.to_thread(start, made)
    assert (await ask_once(daemon.port(), message)).cache == "tidegate; fwd=miss; stored"
    await asyncio.sleep(6)  # a look at the models
    assert await asyncio.to_thread(daemon.stop) == 0
    daemon = await asyncio.to_thread(start, made)
    words = "1 of 1 answers from before are in the cache"
    await asyncio.to_thread(eventually, lambda: words in daemon.log, words, 40)
    assert (await ask_once(daemon.port(), message)).cache == "tidegate; hit"
