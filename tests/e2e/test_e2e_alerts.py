"""Alerts of a real daemon at a real receiver: what it is told, how it is signed, and when it is told again."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon import Daemon, eventually, http_listener, route

Start = Callable[..., Daemon]
SECRET = b"an alert's secret of 24 bytes or more"


class Hook(http.server.ThreadingHTTPServer):
    """Keeps what it is told, and refuses the first `refusals`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refusals = 0
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.paths: set[str] = set()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/services/T000/secret?path=%2Fa&token=secret"

    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]

    def names(self, kind: str) -> list[str]:
        return [row["name"] for message in self.messages() for row in message[kind]]


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        hook = self.server
        assert isinstance(hook, Hook)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        refused = hook.refusals > 0
        hook.refusals -= refused
        hook.paths.add(self.path)
        hook.got.append(({key.lower(): value for key, value in self.headers.items()}, body))
        self.send_response(503 if refused else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def configuration(address: str, **alerts: Any) -> dict[str, Any]:
    return {
        "listeners": {"web": http_listener(route("/", "app"))},
        "pools": {"app": {"protocol": "http", "endpoints": [address], "health": {"type": "tcp", "interval": "200ms"}}},
        "alerts": {"after": "0s", "conditions": ["endpoint_down", "pool_without_endpoint", "reload_failed"], **alerts},
    }


async def test_a_problem_and_its_end_are_told(
    start: Start, endpoint: Callable[..., Any], hook: Hook, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(SECRET + b"\n")
    one = await endpoint("one")
    port = int(one.address.rpartition(":")[2])
    config = configuration(one.address, urls=[hook.url], secret_file=str(tmp_path / "secret"))
    daemon = start(config)
    await asyncio.to_thread(eventually, lambda: daemon.pool("app")["endpoints"][0]["health"] == "up", "health")
    assert daemon.status()["alerts"] == {"firing": 0, "waiting": 0, "deliveries": {}}

    hook.refusals = 1
    one.server.close()
    await one.server.wait_closed()
    await asyncio.to_thread(eventually, lambda: len(hook.got) >= 2, "the message, and its repetition", 60)
    (first, body), (again, repeated) = hook.got[:2]
    assert body == repeated
    assert first["webhook-id"] == again["webhook-id"]
    for headers in (first, again):
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.digest(SECRET, signed, hashlib.sha256)).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
        assert headers["content-type"] == "application/json"
    message = json.loads(body)
    assert message["type"] == "tidegate.alert"
    assert message["verdict"] == "failing"
    assert message["firing"][0]["name"] == "pool_without_endpoint"
    assert message["firing"][0]["subject"] == {"pool": "app"}
    assert message["text"].splitlines()[1].startswith("CRITICAL: pool without endpoint (pool app) - ")
    found = await asyncio.to_thread(lambda: daemon.status()["alerts"])
    assert (found["firing"], found["deliveries"]["delivered"]) == (2, 1)
    assert daemon.metrics("tidegate_alerts_firing") == {frozenset(): 2.0}

    other = await asyncio.start_server(one._serve, "127.0.0.1", port)
    await asyncio.to_thread(
        eventually, lambda: set(hook.names("resolved")) == {"pool_without_endpoint", "endpoint_down"}, "its end", 60
    )
    assert hook.names("firing").count("endpoint_down") == 2  # the message and its repetition, for all the checks
    other.close()
    assert hook.paths == {"/services/T000/secret?path=%2Fa&token=secret"}
    assert hook.url not in daemon.log
    assert "secret" not in daemon.log


async def test_a_reload_changes_who_is_told(
    start: Start, endpoint: Callable[..., Any], hook: Hook, tmp_path: Path
) -> None:
    one = await endpoint("one")
    plain = configuration(one.address, urls=[hook.url])
    without = {key: value for key, value in plain.items() if key != "alerts"}
    daemon = start(without)
    assert daemon.status()["alerts"] is None

    def test_alert() -> tuple[int, Any]:
        code, body = daemon.admin("/api/v1/alerts/test", "POST", "{}")
        return code, json.loads(body)

    def reloaded() -> None:
        assert test_alert() == (409, {"error": "alerts: the configuration names no webhooks"})
        assert daemon.reload(plain)["ok"]
        hook.refusals = 1
        assert test_alert() == (502, {"ok": False, "receivers": [{"receiver": "127.0.0.1", "status": 503}]})
        assert test_alert() == (200, {"ok": True, "receivers": [{"receiver": "127.0.0.1", "status": 200}]})
        assert [(m["test"], m["verdict"], m["firing"]) for m in hook.messages()] == [(True, "well", [])] * 2
        assert "test alert, asked for by " in hook.messages()[0]["text"]
        assert daemon.status()["alerts"]["deliveries"] == {}, "nothing is repeated, and nothing waits"
        hook.got.clear()
        assert not daemon.reload({**plain, "listeners": 7})["ok"]
        eventually(lambda: "reload_failed" in hook.names("firing"), "the message", 60)
        assert "listeners" in hook.messages()[0]["firing"][0]["text"]
        short = tmp_path / "short"
        short.write_text("x")
        outcome = daemon.reload({**plain, "alerts": {"urls": [hook.url], "secret_file": str(short)}})
        assert not outcome["ok"]
        assert "a secret has 24 bytes at least" in outcome["error"]
        assert daemon.reload(without)["ok"]
        assert daemon.status()["alerts"] is None
        assert all("webhook-signature" not in headers for headers, _ in hook.got)

    await asyncio.to_thread(reloaded)


def test_a_configuration_that_cannot_be(start: Start, tmp_path: Path) -> None:
    daemon = start(
        {
            **configuration("127.0.0.1:9", urls=["ftp://hook"], conditions=["endpoint_lost"]),
        },
        ready=False,
    )
    eventually(lambda: daemon.process.poll() is not None, "its end", 30)
    assert "alerts.urls[0]" in daemon.log
    assert "alerts.conditions[0]" in daemon.log
