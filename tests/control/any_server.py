"""A server of another maker, small: HTTP on a port or a Unix socket, and ill on demand. The standard library alone.

    any_server.py ADDRESS [--mode MODE ...] [--say TEXT]

ADDRESS is HOST:PORT or unix:/PATH. GET /health answers 200, every other path the process's own number, its arguments
and some of its environment as JSON. Modes: stubborn (ignores SIGTERM); forks (a child in the same group); daemon (a
child in a session of its own, whose parent has ended); late (503 from /health until the file LATE exists); crash (exits
with 3 after three lines). Children write their numbers to the file CHILDREN.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socketserver
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    late = ""

    def do_GET(self) -> None:
        if self.path == "/health":
            ok = not self.late or Path(self.late).exists()
            self.answer(200 if ok else 503, b"")
        else:
            shown = ("CUDA_VISIBLE_DEVICES", "PORT", "TIDEGATE_ADDRESS", "TIDEGATE_INDEX", "GIVEN", "PYTHONPATH")
            found = {
                "pid": os.getpid(),
                "arguments": sys.argv[1:],
                "cores": sorted(os.sched_getaffinity(0)),
                **{name: os.environ.get(name) for name in shown},
            }
            self.answer(200, json.dumps(found).encode())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "client"

    def log_message(self, *_: object) -> None:
        pass


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def child(detached: bool) -> None:
    """A process that sleeps, and says its number in the file CHILDREN."""
    if os.fork():
        if detached:
            os.wait()
        return
    if detached:
        os.setsid()
        if os.fork():
            os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(os.environ["CHILDREN"], "a") as file:
        file.write(f"{os.getpid()}\n")
    while True:
        time.sleep(60)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--mode", action="append", default=[])
    parser.add_argument("--say", default="")
    options = parser.parse_args()
    if options.say:
        print(options.say, file=sys.stderr, flush=True)
    if "crash" in options.mode:
        print("loading the model\nreading weights", flush=True)
        print("RuntimeError: out of memory", file=sys.stderr, flush=True)
        return 3
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in options.mode else lambda *_: os._exit(0))
    if "forks" in options.mode:
        child(detached=False)
    if "daemon" in options.mode:
        child(detached=True)
    if "late" in options.mode:
        Handler.late = os.environ["LATE"]
    server: socketserver.BaseServer
    if options.address.startswith("unix:"):
        server = UnixServer(options.address.removeprefix("unix:"), Handler)
    else:
        host, _, port = options.address.rpartition(":")
        server = ThreadingHTTPServer((host, int(port)), Handler)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
