#!/usr/bin/env python3
"""Draws the pictures of docs/dashboard.md: the real dashboard of a real daemon with traffic, in a real browser.

    python tests/e2e/pictures.py FOLDER [SECONDS]

One of five chat endpoints begins to fail after a third of the time, one of the embedding endpoints is down, one drains.
SECONDS (330) of traffic come before the pictures.
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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "e2e")]

from browser import Page  # noqa: E402
from ports import free_port  # noqa: E402
from waiting import eventually  # noqa: E402

SIZES = (
    ("wide", 1920, 1080, False),
    ("laptop", 1366, 768, False),
    ("tablet", 820, 1180, True),
    ("phone", 390, 844, True),
)


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
        failed = self.path != "/health" and random.random() < server.failing
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


def client(url: str, pause: float, until: float) -> None:
    while time.monotonic() < until:
        request = urllib.request.Request(url, b'{"prompt": "hello"}', {"Content-Type": "application/json"})
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
    speech = [served_locally(scratch / f"models/production/speech/whisper-{n}.sock") for n in range(2)]
    web, admin = free_port(), free_port()
    health = {"type": "http", "path": "/health", "interval": "2s"}
    config = {
        "workers": 2,
        "zone": "eu-1a",
        "admin": {"bind": f"127.0.0.1:{admin}"},
        "cache": {},
        "listeners": {
            "public": {
                "bind": f"127.0.0.1:{web}", "protocol": "http", "max_connections": 5000,
                "routes": [
                    {"name": "chat", "match": {"path": {"prefix": "/v1/chat/"}}, "pool": "chat"},
                    {"name": "embeddings", "match": {"path": {"prefix": "/v1/embeddings"}}, "pool": "embeddings",
                     "rate_limit": {"rate": "27/s", "burst": 20}},
                    {"name": "speech", "match": {"path": {"prefix": "/v1/audio/"}}, "pool": "speech"},
                    {"name": "status", "match": {"path": {"exact": "/status"}}, "respond": {"status": 200}},
                ],
            },
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
                           (f"{base}/v1/audio/transcriptions", 0.3), (f"{base}/status", 0.5)):  # fmt: skip
            threading.Thread(target=client, args=(url, pause, until), daemon=True).start()
        time.sleep(seconds / 3)
        chat[3][0].failing, chat[3][0].delay = 0.25, 0.2
        time.sleep(seconds * 2 / 3)
        draw(f"http://127.0.0.1:{admin}/", folder, str(scratch))
    finally:
        daemon.terminate()
        daemon.wait(60)


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
