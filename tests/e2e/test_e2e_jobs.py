"""Jobs through real daemons: accepted now, answered later. test_e2e_jobs_kills.py kills the processes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import yarl
from aiohttp import web
from daemon import Daemon, digits_pool, http_listener, route
from traffic import DIGITS_INFER, digit_samples
from waiting import eventually

Start = Callable[..., Daemon]
ASYNC = {"Prefer": "respond-async"}


class Echo:
    """An endpoint that answers with the request's body turned round; `seen` counts bodies. While its `gate` is closed
    it does not answer."""

    def __init__(self) -> None:
        self.seen: Counter[bytes] = Counter()
        self.heads: list[dict[str, str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", r"/{path:[\s\S]*}", self._answer)
        self._runner = web.AppRunner(
            app, shutdown_timeout=0.01, max_line_size=1 << 16, max_field_size=1 << 16, max_headers=500
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Its connections are cut, and its port is closed."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.seen[body] += 1
        self.heads.append(dict(request.headers))
        await self.gate.wait()
        return web.Response(body=body[::-1], headers={"X-Path": request.raw_path})


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    made = Echo()
    await made.start()
    yield made
    made.gate.set()
    await made.stop()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield session


def configuration(echo: Echo, store: Path, port: int = 0, **jobs: Any) -> dict[str, Any]:
    return {
        "listeners": {"web": {**http_listener(route("/", "echo", jobs=True)), "bind": f"127.0.0.1:{port}"}},
        "pools": {"echo": {"protocol": "http", "endpoints": [f"127.0.0.1:{echo.port}"]}},
        "jobs": {"path": str(store / "jobs.db"), **jobs},
    }


async def wait_until(client: aiohttp.ClientSession, url: str, *states: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            async with client.get(url) as answer:
                document: dict[str, Any] = await answer.json()
                assert answer.status == 200, document
            if document["state"] in states:
                return document
            await asyncio.sleep(0.05)


async def test_a_job_takes_its_route_later(
    start: Start, tmp_path: Path, echo: Echo, client: aiohttp.ClientSession
) -> None:
    daemon = start(configuration(echo, tmp_path))
    base = f"http://127.0.0.1:{daemon.port()}"
    async with client.post(f"{base}/x?a=b", data=b"abc") as answer:  # without the preference nothing is new
        assert (answer.status, await answer.read()) == (200, b"cba")
    echo.gate.clear()
    async with client.post(f"{base}/x?a=b", data=b"abcd", headers={**ASYNC, "X-A": "1"}) as answer:
        assert answer.status == 202
        place = base + answer.headers["Location"]
    await wait_until(client, place, "running")
    echo.gate.set()
    async with client.get(f"{place}/result", headers={"Prefer": "wait=30"}) as answer:
        assert (answer.status, await answer.read(), answer.headers["X-Path"]) == (200, b"dcba", "/x?a=b")
    head = echo.heads[-1]
    assert head["X-A"] == "1"
    assert head["X-Forwarded-For"] == "127.0.0.1"
    assert head["Host"] == f"127.0.0.1:{daemon.port()}"
    assert head["Idempotency-Key"] == place.rpartition("/")[2]
    assert not {"Prefer", "X-Tidegate-Job-Route"} & head.keys()
    assert daemon.status()["jobs"]["state"] == "running"
    await asyncio.to_thread(eventually, lambda: daemon.status()["jobs"]["ended"] == {"done": 1}, "the count", 10)
    assert daemon.status()["jobs"]["submissions"] == {"accepted": 1}
    assert daemon.metrics("tidegate_jobs")[frozenset({("route", "echo"), ("state", "done")})] == 1
    assert daemon.metrics("tidegate_jobs_submissions_total")[frozenset({("result", "accepted")})] == 1


async def test_a_job_may_have_any_head_that_its_listener_takes(start: Start, tmp_path: Path, echo: Echo) -> None:
    """Long targets, long fields and many, in the answer, too, and an encoded line end in the path."""
    made = configuration(echo, tmp_path, attempts=1)
    made["listeners"]["web"] |= {"max_header_bytes": "256KiB", "max_headers": 400}
    base = f"http://127.0.0.1:{start(made).port()}"
    fields = {
        **ASYNC,
        "Prefer": "respond-async, wait=30",
        "Cookie": "a" * 20_000,
        **{f"X-{i}": "1" for i in range(200)},
    }
    within = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=within, max_line_size=1 << 16, max_field_size=1 << 16) as client:
        for target in (f"/x?{'q' * 20_000}", "/x%0D%0Ay"):
            async with client.post(yarl.URL(base + target, encoded=True), data=b"abc", headers=fields) as answer:
                assert (answer.status, await answer.read()) == (200, b"cba"), await answer.text()
                assert answer.headers["X-Path"] == target
                assert "Content-Location" in answer.headers
            assert echo.heads[-1]["Cookie"] == fields["Cookie"]


async def test_a_client_cannot_choose_the_route_of_its_job(
    start: Start, tmp_path: Path, echo: Echo, client: aiohttp.ClientSession
) -> None:
    config = configuration(echo, tmp_path)
    config["listeners"]["web"]["routes"].insert(0, {**route("/admin/", "echo", jobs=True), "name": "guarded"})
    config["listeners"]["web"]["routes"][0]["match"]["source"] = ["192.0.2.1"]
    config["listeners"]["web"]["routes"].append(
        {"name": "deny", "match": {"path": {"prefix": "/admin/"}}, "respond": {"status": 403}}
    )
    daemon = start(config)
    base = f"http://127.0.0.1:{daemon.port()}"
    forged = {**ASYNC, "X-Tidegate-Job-Route": "guarded", "X-Forwarded-For": "192.0.2.1"}
    async with client.post(f"{base}/admin/x", data=b"ab", headers=forged) as answer:
        assert answer.status == 403
    async with client.post(f"{base}/x", data=b"ab", headers=forged) as answer:
        assert (answer.status, (await answer.json())["route"]) == (202, "echo")
    for method, path in (
        ("GET", "/jobs/x"),
        ("DELETE", "/jobs/x"),
        ("POST", "/jobs/x/retry"),
        ("GET", "/jobs/x/events"),
    ):
        async with client.request(method, base + path, headers=forged, data=b"") as answer:
            assert answer.status == 404, (method, path)


async def test_an_inference_is_answered_as_ever(start: Start, tmp_path: Path, client: aiohttp.ClientSession) -> None:
    config = {
        "listeners": {"web": http_listener(route("/v2", "digits", jobs=True))},
        "pools": {"digits": digits_pool(min=1)},
        "jobs": {"path": str(tmp_path / "jobs.db")},
    }
    daemon = start(config)
    base = f"http://127.0.0.1:{daemon.port()}"
    sample = digit_samples()[0]["image"]
    question = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 64], "data": sample}]}
    async with client.post(base + DIGITS_INFER, json=question) as answer:
        expected = await answer.json()
    async with client.post(base + DIGITS_INFER, json=question, headers={"Prefer": "respond-async, wait=30"}) as answer:
        assert answer.status == 200
        assert await answer.json() == expected
    async with client.post(f"{base}/v2/models/none/infer", json=question, headers=ASYNC) as answer:
        place = base + answer.headers["Location"]
    assert (await wait_until(client, place, "failed"))["status"] == 404


async def test_jobs_that_wait_scale_their_pool(
    start: Start, tmp_path: Path, echo: Echo, client: aiohttp.ClientSession
) -> None:
    config = configuration(echo, tmp_path, concurrency=1)
    scaling = {"metrics": [{"type": "jobs", "target": 4}], "interval": "500ms", "down": {"window": "1s"}}
    config["pools"]["digits"] = {**digits_pool(min=1, max=2), "scaling": scaling}
    config["listeners"]["web"]["routes"].append(route("/v2", "digits", jobs=True))
    daemon = start(config)
    base = f"http://127.0.0.1:{daemon.port()}"
    echo.gate.clear()  # what is in front of the others stays there
    async with client.post(base, data=b"first", headers=ASYNC) as answer:
        await wait_until(client, base + answer.headers["Location"], "running")
    for _ in range(8):
        async with client.get(f"{base}/v2/models/digits", headers=ASYNC) as answer:
            place = base + answer.headers["Location"]

    def wanted(number: int) -> Callable[[], bool]:
        return lambda: daemon.pool("digits")["managed"]["wanted"] == number

    await asyncio.to_thread(eventually, wanted(2), "two model servers", 60)
    echo.gate.set()
    await wait_until(client, place, "done")
    await asyncio.to_thread(eventually, wanted(1), "one model server", 60)


async def test_limits_hold_for_submissions(
    start: Start, tmp_path: Path, echo: Echo, client: aiohttp.ClientSession
) -> None:
    config = configuration(echo, tmp_path)
    config["tables"] = {"clients": {"key": "${client.address}", "store": ["requests"]}}
    # In a group: it holds for two submissions, and no longer when the second one runs.
    few: dict[str, Any] = {"tables": {"clients": {"requests": {"below": 2}}}}
    config["listeners"]["web"]["routes"][:0] = [
        {
            "name": "few",
            "match": {
                "path": {"exact": "/few"},
                "any": [few, {"headers": {"x-vip": "1"}}],
                "none": [{"source": ["192.0.2.1"]}],
            },
            "track": "clients",
            "pool": "echo",
            "jobs": True,
        },
        {"match": {"path": {"exact": "/few"}}, "respond": {"status": 404}},
    ]
    config["listeners"]["web"]["routes"][2] |= {"max_body": "1KiB", "rate_limit": {"rate": "1/m", "burst": 2}}
    daemon = start(config)
    base = f"http://127.0.0.1:{daemon.port()}"
    places = []
    for _ in range(3):
        async with client.post(f"{base}/few", data=b"abc", headers=ASYNC) as answer:
            places.append((answer.status, answer.headers.get("Location", "")))
    assert [status for status, _ in places] == [202, 202, 404]
    for _, place in places[:2]:
        async with client.get(f"{base}{place}/result", headers={"Prefer": "wait=30"}) as answer:
            assert (answer.status, await answer.read()) == (200, b"cba")
    statuses = []
    for size in (10, 2000, 10, 10):
        async with client.post(base, data=bytes(size), headers=ASYNC) as answer:
            statuses.append(answer.status)
    assert statuses.count(413) == 1
    assert statuses.count(429) >= 1
    assert 202 in statuses


async def test_an_endpoint_that_is_gone_is_waited_for(
    start: Start, tmp_path: Path, echo: Echo, client: aiohttp.ClientSession
) -> None:
    daemon = start(configuration(echo, tmp_path, attempts=100))
    base = f"http://127.0.0.1:{daemon.port()}"
    await echo.stop()
    async with client.post(base, data=b"ab", headers=ASYNC) as answer:
        place = base + answer.headers["Location"]
    async with asyncio.timeout(30):
        while (await wait_until(client, place, "queued", "running"))["failure"] is None:
            await asyncio.sleep(0.05)
    await echo.start()
    async with client.get(f"{place}/result", headers={"Prefer": "wait=60"}) as answer:
        assert (answer.status, await answer.read()) == (200, b"ba")


async def test_events_end_with_the_daemon_and_the_job_goes_on_with_the_next(
    start: Start, tmp_path: Path, echo: Echo, client: aiohttp.ClientSession
) -> None:
    daemon = start({**configuration(echo, tmp_path), "shutdown": {"drain_timeout": "1s"}})
    base = f"http://127.0.0.1:{daemon.port()}"
    echo.gate.clear()
    async with client.post(base, data=b"ab", headers=ASYNC) as answer:
        place = answer.headers["Location"]
    await wait_until(client, base + place, "running")
    async with client.get(f"{base}{place}/events") as stream:
        assert b"running" in await stream.content.readuntil(b"\n\n")
        assert await asyncio.to_thread(daemon.stop) == 0
        assert b"done" not in await stream.read()
    echo.gate.set()
    after = start(configuration(echo, tmp_path))
    async with client.get(f"http://127.0.0.1:{after.port()}{place}/result", headers={"Prefer": "wait=30"}) as answer:
        assert (answer.status, await answer.read()) == (200, b"ba")


async def test_a_cancelled_job_leaves_its_endpoint(
    start: Start, tmp_path: Path, echo: Echo, client: aiohttp.ClientSession
) -> None:
    daemon = start(configuration(echo, tmp_path))
    base = f"http://127.0.0.1:{daemon.port()}"
    echo.gate.clear()
    async with client.post(base, data=b"ab", headers=ASYNC) as answer:
        place = base + answer.headers["Location"]
    await wait_until(client, place, "running")
    async with client.delete(place) as answer:
        assert (answer.status, (await answer.json())["state"]) == (200, "cancelled")
    async with asyncio.timeout(20):
        while daemon.in_flight():
            await asyncio.sleep(0.05)
    echo.gate.set()
    assert (await wait_until(client, place, "cancelled"))["status"] is None


async def test_the_end_is_told(start: Start, tmp_path: Path, echo: Echo, client: aiohttp.ClientSession) -> None:
    secret = b"k" * 32
    (tmp_path / "secret").write_bytes(b"whsec_" + base64.b64encode(secret))
    told: asyncio.Queue[tuple[dict[str, str], bytes]] = asyncio.Queue()

    async def receive(request: web.Request) -> web.Response:
        await told.put((dict(request.headers), await request.read()))
        return web.Response(status=204)

    receiver = web.Application()
    receiver.router.add_post("/hooks/{id}", receive)
    runner = web.AppRunner(receiver)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    there = f"http://127.0.0.1:{runner.addresses[0][1]}/hooks"
    webhooks = {"secret_file": str(tmp_path / "secret"), "urls": [f"{there}/"]}
    daemon = start(configuration(echo, tmp_path, webhooks=webhooks))
    base = f"http://127.0.0.1:{daemon.port()}"
    async with client.post(base, data=b"ab", headers={**ASYNC, "X-Tidegate-Webhook": f"{there}/7"}) as answer:
        assert answer.status == 202
        job = (await answer.json())["id"]
    async with asyncio.timeout(20):
        head, body = await told.get()
    document = json.loads(body)
    assert (document["id"], document["state"], head["webhook-id"]) == (job, "done", job)
    content = f"{job}.{head['webhook-timestamp']}.".encode() + body
    digest = base64.b64encode(hmac.digest(secret, content, hashlib.sha256)).decode()
    assert head["webhook-signature"] == f"v1,{digest}"
    await runner.cleanup()


async def test_a_reload_switches_jobs_on_and_off(
    start: Start, tmp_path: Path, echo: Echo, client: aiohttp.ClientSession
) -> None:
    on = configuration(echo, tmp_path)
    off: dict[str, Any] = {**on, "listeners": {"web": http_listener(route("/", "echo"))}}
    del off["jobs"]
    daemon = start(off)
    base = f"http://127.0.0.1:{daemon.port()}"

    async def status() -> int:
        async with client.post(base, data=b"ab", headers=ASYNC) as answer:
            return answer.status

    assert await status() == 200
    for config, expected in ((on, 202), (off, 200), (on, 202)):
        assert daemon.reload(config)["ok"]
        async with asyncio.timeout(20):
            while await status() != expected:
                await asyncio.sleep(0.05)
    assert daemon.reload(configuration(echo, tmp_path, quota=1))["ok"]
    echo.gate.clear()
    async with asyncio.timeout(20):
        while await status() != 429:
            pass


async def test_a_store_that_cannot_be_opened_is_told(start: Start, tmp_path: Path, echo: Echo) -> None:
    (tmp_path / "jobs.db").write_bytes(b"something else " * 1000)
    daemon = start(configuration(echo, tmp_path), ready=False)
    assert await asyncio.to_thread(daemon.process.wait, 60) == 1
    assert "jobs.db: file is not a database" in daemon.log


async def test_an_operator_sees_dead_letters_and_queues_them_anew(
    start: Start, tmp_path: Path, echo: Echo, client: aiohttp.ClientSession
) -> None:
    daemon = start(configuration(echo, tmp_path, attempts=1, tenant={"header": "X-T"}))
    base, head = f"http://127.0.0.1:{daemon.port()}", {**ASYNC, "X-T": "acme"}
    await echo.stop()
    async with client.post(base, data=b"ab", headers=head) as answer:
        job = (await answer.json())["id"]
    await asyncio.to_thread(eventually, lambda: daemon.status()["jobs"]["ended"] == {"dead": 1}, "its end", 30)

    def told(*arguments: str) -> tuple[int, str]:
        done = daemon.command("jobs", *arguments)
        return done.returncode, done.stdout or done.stderr

    status, text = await asyncio.to_thread(told, "list", "--state", "dead")
    assert (status, job in text, "acme" in text, "status 502" in text) == (0, True, True, True)
    listed = json.loads((await asyncio.to_thread(told, "list", "--json"))[1])
    assert [(row["id"], row["tenant"], row["state"]) for row in listed] == [(job, "acme", "dead")]
    await echo.start()
    assert await asyncio.to_thread(told, "retry", "--all") == (0, f"{job}: queued\n")
    result = f"{base}/jobs/{job}/result"
    async with client.get(result, headers={"X-T": "acme", "Prefer": "wait=30"}) as answer:
        assert (answer.status, await answer.read()) == (200, b"ba")
    assert await asyncio.to_thread(told, "cancel", job) == (1, f"{job}: the job is done\n")
    assert await asyncio.to_thread(told, "retry", "none") == (1, "none: there is no such job, or it has expired\n")
    assert (await asyncio.to_thread(told, "retry"))[0] == 1
    assert "no jobs" in (await asyncio.to_thread(told, "list", "--state", "dead"))[1]
    for path, expected in (("?state=x", 400), ("?last=0", 400), ("?last=5", 200)):
        assert (await asyncio.to_thread(daemon.admin, f"/api/v1/jobs{path}"))[0] == expected
    for body in ("", "{}", '{"job": "x", "action": "stop"}'):
        assert (await asyncio.to_thread(daemon.admin, "/api/v1/jobs", "POST", body))[0] == 400


async def test_without_jobs_there_are_none_to_ask_for(start: Start, tmp_path: Path, echo: Echo) -> None:
    config = configuration(echo, tmp_path)
    del config["jobs"], config["listeners"]["web"]["routes"][0]["jobs"]
    daemon = start(config)
    assert daemon.status()["jobs"] is None
    assert daemon.admin("/api/v1/jobs")[0] == 404
    assert "no section jobs" in daemon.command("jobs", "list").stderr


async def test_a_jobs_process_that_hangs_is_replaced(start: Start, tmp_path: Path, echo: Echo) -> None:
    daemon = start(configuration(echo, tmp_path))
    first = daemon.status()["jobs"]["pid"]
    psutil.Process(first).suspend()
    async with asyncio.timeout(60):
        while (status := daemon.status()["jobs"])["pid"] in (first, None) or status["state"] != "running":
            await asyncio.sleep(0.2)
    assert not psutil.pid_exists(first)


async def test_many_clients_at_once_wait_for_the_jobs_process(start: Start, tmp_path: Path, echo: Echo) -> None:
    """A Unix socket whose queue is full refuses at once, so the queue has to be long."""
    daemon = start({**configuration(echo, tmp_path), "workers": 1})
    process = psutil.Process(daemon.status()["jobs"]["pid"])
    url = f"http://127.0.0.1:{daemon.port()}/x"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def submit() -> int:
            async with session.post(url, data=b"x", headers={"Prefer": "respond-async"}) as answer:
                return answer.status

        process.suspend()
        tasks = [asyncio.create_task(submit()) for _ in range(400)]
        await asyncio.sleep(1)  # not as long as the master waits for a process that hangs
        process.resume()
        assert set(await asyncio.gather(*tasks)) == {202}
