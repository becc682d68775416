"""Endpoints in threads that show what they got, and requests that say every octet of their head."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Callable
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Echo(ThreadingHTTPServer):
    """An HTTP endpoint: answers with `status`, `more` headers, and in JSON with its name and what it got."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, name: str, status: int = 200, **more: str) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.name = name
        self.status = status
        self.more = {field.replace("_", "-"): value for field, value in more.items()}
        self.heads: list[dict[str, Any]] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that the daemon resets, as that of a check, is no error."""


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Echo

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fields = [(name.lower(), value) for name, value in self.headers.items()]
        head = {"method": self.command, "target": self.path, "fields": fields, "body": body.decode("latin-1")}
        self.server.heads.append(head)
        said = json.dumps({"name": self.server.name, **head}).encode()
        self.send_response(self.server.status)
        for name, value in {"Content-Length": str(len(said)), **self.server.more}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said)

    do_GET = do_POST = do_HEAD = do_PUT = do_OPTIONS = answer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


class Speaker(socketserver.ThreadingTCPServer):
    """A TCP endpoint that says `lines` by turns: a text is sent, a number is so many octets to wait for."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *turns: bytes | int, talk: Callable[[socket.socket], None] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.turns = turns
        self.talk = talk
        self.heard: list[bytes] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.server_address[1]}"

    def finish_request(self, request: Any, client_address: Any) -> None:
        """One connection."""
        request.settimeout(10)
        try:
            if self.talk is not None:
                self.talk(request)
                return
            for turn in self.turns:
                if isinstance(turn, bytes):
                    request.sendall(turn)
                    continue
                heard = b""
                while len(heard) < turn and (data := request.recv(turn - len(heard))):
                    heard += data
                self.heard.append(heard)
        except OSError:
            return


class Answer(NamedTuple):
    """An answer; of several fields of one name the values stand side by side."""

    status: int
    fields: dict[str, str]
    body: str

    @property
    def got(self) -> dict[str, Any]:
        """What an Echo got."""
        got: dict[str, Any] = json.loads(self.body)
        return got

    @property
    def name(self) -> str:
        """The Echo that answered."""
        return str(self.got["name"])

    def seen(self, field: str) -> list[str]:
        """The values that an Echo got of a header."""
        return [value for name, value in self.got["fields"] if name == field]


def ask(
    port: int,
    target: str = "/",
    *fields: str,
    method: str = "GET",
    host: str = "a.org",
    body: str = "",
    source: str = "",
) -> Answer:
    """A request over a connection of its own; `fields` are lines, `source` an address of this host."""
    connection = HTTPConnection("127.0.0.1", port, timeout=20, source_address=(source, 0) if source else None)
    try:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", host)
        for line in fields:
            name, _, value = line.partition(": ")
            connection.putheader(name, value)
        if body:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body.encode() or None)
        answer = connection.getresponse()
        found: dict[str, str] = {}
        for name, value in answer.getheaders():
            found[name.lower()] = f"{found[name.lower()]}, {value}" if name.lower() in found else value
        return Answer(answer.status, found, answer.read().decode())
    finally:
        connection.close()


def talk(port: int, data: bytes, shut: bool = False) -> bytes:
    """What comes back for `data` until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(data)
        if shut:
            client.shutdown(socket.SHUT_WR)
        parts = []
        try:
            while part := client.recv(65536):
                parts.append(part)
        except ConnectionResetError:
            pass
        return b"".join(parts)
