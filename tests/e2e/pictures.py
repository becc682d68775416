#!/usr/bin/env python3
"""Draws the pictures of docs/dashboard.md: the real dashboard of a real daemon with traffic, in a real browser.

    python tests/e2e/pictures.py FOLDER [SECONDS]

One of five chat endpoints begins to fail after a third of the time, one of the embedding endpoints is down, one drains.
Model servers of digits are scaled, a certificate expires soon, clients come without a key, jobs wait, a webhook is
away, and the last reload is refused. SECONDS (330) of traffic come before the pictures.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "e2e")]

from authority import Authority  # noqa: E402
from browser import Page  # noqa: E402
from daemon import digits_pool  # noqa: E402
from ports import free_port  # noqa: E402
from traffic import digit_samples  # noqa: E402
from waiting import eventually  # noqa: E402

SIZES = (
    ("wide", 1920, 1080, False),
    ("laptop", 1366, 768, False),
    ("tablet", 820, 1180, True),
    ("phone", 390, 844, True),
)


PROMPT = b'{"prompt": "hello"}'


class Server(http.server.ThreadingHTTPServer):
    """Answers after about `delay` seconds, and in the part `failing` of the cases with 500."""

    daemon_threads = True
    delay = 0.02
    failing = 0.0


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        if self.path != "/health":
            time.sleep(random.lognormvariate(0, 0.5) * server.delay)
        failed = self.path != "/health" and random.random() < (0.12 if "/detr-" in self.path else server.failing)
        body = b'{"ok": true}'
        self.send_response(500 if failed else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class LocalServer(Server):
    """The same on a Unix socket."""

    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "localhost", 0


class LocalHandler(Handler):
    def address_string(self) -> str:
        return "local"


def served_locally(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    threading.Thread(target=LocalServer(str(path), LocalHandler).serve_forever, daemon=True).start()  # type: ignore[arg-type]
    return f"unix:{path}"


def served(delay: float) -> tuple[Server, str]:
    server = Server(("127.0.0.1", 0), Handler)
    server.delay = delay
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"127.0.0.1:{server.server_address[1]}"


def digit(image: list[float], noise: float) -> bytes:
    """An inference; with noise no two are the same."""
    data = [value + random.uniform(0, noise) for value in image]
    return json.dumps({"inputs": [{"name": "image", "shape": [1, 64], "datatype": "FP32", "data": data}]}).encode()


def client(url: str, pause: float, until: float, body: Callable[[], bytes] = lambda: PROMPT, **fields: str) -> None:
    """`fields` are further fields of its requests."""
    headers = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in fields.items()}}
    while time.monotonic() < until:
        request = urllib.request.Request(url, body(), headers)
        with contextlib.suppress(OSError, urllib.error.HTTPError):
            urllib.request.urlopen(request, timeout=20).read()
        time.sleep(random.expovariate(1 / pause))


def main() -> None:
    folder = Path(sys.argv[1])
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 330.0
    with tempfile.TemporaryDirectory() as scratch:
        _run(folder, seconds, Path(scratch))


def _run(folder: Path, seconds: float, scratch: Path) -> None:
    chat = [served(0.06) for _ in range(5)]
    embed = [served(0.012) for _ in range(3)]
    vision = [served(0.03) for _ in range(2)]
    speech = [served_locally(scratch / f"models/production/speech/whisper-{n}.sock") for n in range(2)]
    web, admin = free_port(), free_port()
    certificate, key = Authority().issue("inference.example.org", "*.partners.example.org", days=9).write(scratch)
    (scratch / "keys").write_text(f"team-a:sha256:{'5f' * 32}\n")
    health = {"type": "http", "path": "/health", "interval": "2s"}
    config: dict[str, Any] = {
        "workers": 2,
        "zone": "eu-1a",
        "admin": {"bind": f"127.0.0.1:{admin}"},
        "cache": {},
        "auth": {"keys": {"type": "api_key", "file": str(scratch / "keys")}},
        "jobs": {"path": str(scratch / "jobs.db")},
        "alerts": {"urls": [f"http://127.0.0.1:{free_port()}/hook"], "after": "20s"},
        "listeners": {
            "public": {
                "bind": f"127.0.0.1:{web}", "protocol": "http", "max_connections": 5000,
                "routes": [
                    {"name": "chat", "match": {"path": {"prefix": "/v1/chat/"}}, "pool": "chat"},
                    {"name": "embeddings", "match": {"path": {"prefix": "/v1/embeddings"}}, "pool": "embeddings",
                     "rate_limit": {"rate": "20/s", "burst": 20}},
                    {"name": "vision", "match": {"path": {"prefix": "/v2/"}}, "pool": "vision"},
                    {"name": "digits", "match": {"path": {"prefix": "/v2/models/digits"}}, "pool": "digits"},
                    {"name": "transcripts", "match": {"path": {"prefix": "/v1/transcripts"}}, "pool": "speech",
                     "jobs": True},
                    {"name": "admin", "match": {"path": {"prefix": "/admin/"}}, "pool": "chat", "auth": "keys"},
                    {"name": "speech", "match": {"path": {"prefix": "/v1/audio/"}}, "pool": "speech"},
                    {"name": "status", "match": {"path": {"exact": "/status"}}, "respond": {"status": 200}},
                ],
            },
            "partners": {"bind": "127.0.0.1:0", "protocol": "https", "max_connections": 5000,
                         "tls": {"certificates": [{"cert": certificate, "key": key}]},
                         "routes": [{"name": "partners", "pool": "chat"}]},
            "vectors": {"bind": "127.0.0.1:0", "protocol": "tcp", "pool": "vectors", "max_connections": 5000},
        },
        "pools": {
            "chat": {"protocol": "http", "endpoints": [a for _, a in chat], "health": health,
                     "queue": {"max": 200}, "policy": "round_robin", "max_in_flight": 4},
            "embeddings": {"protocol": "http", "endpoints": [*(a for _, a in embed), f"127.0.0.1:{free_port()}"],
                           "health": health},
            "speech": {"protocol": "http", "endpoints": speech,
                       "health": {"type": "tcp", "interval": "2s"}},
            "vectors": {"protocol": "tcp", "endpoints": [served(0.01)[1]]},
            "vision": {"protocol": "http", "endpoints": [a for _, a in vision], "health": health},
            "digits": {**digits_pool(min=1, max=3), "scaling": {}},
        },
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = scratch / "tidegate.yaml"
    path.write_text(json.dumps(config))
    daemon = subprocess.Popen([sys.executable, "-m", "lb.cli", "run", "-c", str(path)], cwd=ROOT)
    try:
        eventually(lambda: answers(admin), "the daemon", 60)
        drain = json.dumps({"pool": "embeddings", "address": embed[1][1], "admin": "drain"}).encode()
        urllib.request.urlopen(f"http://127.0.0.1:{admin}/api/v1/endpoint", drain, timeout=20).close()
        until = time.monotonic() + seconds + 120
        base = f"http://127.0.0.1:{web}"
        for url, pause in (*[(f"{base}/v1/chat/completions", 0.15)] * 8, *[(f"{base}/v1/embeddings", 0.1)] * 3,
                           (f"{base}/v1/audio/transcriptions", 0.3), (f"{base}/status", 0.5),
                           (f"{base}/admin/", 2)):  # fmt: skip
            threading.Thread(target=client, args=(url, pause, until), daemon=True).start()
        for model, pause, noise in (("digits", 0.04, 0), ("digits", 0.02, 1), ("digits-next", 5, 0)):
            for sample in digit_samples()[:4]:
                where, ask = f"{base}/v2/models/{model}/infer", partial(digit, sample["image"], noise)
                threading.Thread(target=client, args=(where, 4 * pause, until, ask), daemon=True).start()
        for model, pause in (("resnet-50", 0.06), ("clip-vit-large-patch14", 0.1), ("detr-resnet-101", 0.3)):
            threading.Thread(target=client, args=(f"{base}/v2/models/{model}/infer", pause, until), daemon=True).start()
        job = {"Prefer": "respond-async"}
        threading.Thread(target=client, args=(f"{base}/v1/transcripts", 2, until), kwargs=job, daemon=True).start()
        time.sleep(seconds / 3)
        config["pools"]["chat"]["max_in_flight"] = 6
        config["listeners"]["public"]["routes"][1]["rate_limit"]["rate"] = "18/s"
        reload(admin, path, config)
        chat[3][0].failing, chat[3][0].delay = 0.25, 0.2
        time.sleep(seconds * 2 / 3)
        config["pools"]["chat"]["polcy"] = "random"
        config["pools"]["chat"]["max_in_flight"] = 8
        reload(admin, path, config)
        time.sleep(2)
        draw(f"http://127.0.0.1:{admin}/", folder, str(scratch))
    finally:
        daemon.terminate()
        daemon.wait(60)


def reload(admin: int, path: Path, config: dict[str, Any]) -> None:
    path.write_text(json.dumps(config))
    with contextlib.suppress(urllib.error.HTTPError):  # it is refused
        urllib.request.urlopen(f"http://127.0.0.1:{admin}/api/v1/reload", b"{}", timeout=60).close()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).read())
    return False


def draw(url: str, folder: Path, scratch: str) -> None:
    with Page(url, f"{scratch}/browser") as page:
        page.wait("document.querySelectorAll('#panels section').length > 2")
        for scheme in ("light", "dark"):
            for name, width, height, mobile in SIZES:
                page.look(width, height, scheme, mobile)
                time.sleep(2)
                page.ask("scrollTo(0, 0)")
                high = page.ask("document.documentElement.scrollHeight")
                wide = page.ask("document.documentElement.scrollWidth")
                (folder / f"dashboard-{name}-{scheme}.png").write_bytes(page.picture())
                page.look(width, min(high, 6000), scheme, mobile)
                time.sleep(1)
                (folder / f"whole-{name}-{scheme}.png").write_bytes(page.picture())
                print(f"{name} {scheme}: page of {wide} x {high}", flush=True)
        print("\n".join(page.problems) or "no error of a script")


if __name__ == "__main__":
    main()
