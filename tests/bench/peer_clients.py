"""Clients of one request, for what stands behind a proxy."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
from collections.abc import Mapping

import grpc
from waiting import eventually as until  # noqa: F401 - for those who import this

HTTP = ["haproxy", "nginx", "envoy", "varnish"]
GENERAL = ["haproxy", "nginx", "envoy"]  # those with HTTP/2, TCP and TLS
CACHES = ["nginx", "varnish"]


def get(
    port: int, path: str = "/", body: bytes | None = None, fields: Mapping[str, str] | None = None
) -> tuple[int, bytes, dict[str, str]]:
    """One request on a connection of its own; with a body it is a POST."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET" if body is None else "POST", path, body, fields or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()}
    finally:
        connection.close()


def call(channel: grpc.Channel, method: str = "/test/say", message: bytes = b"hello") -> bytes:
    answer: bytes = channel.unary_unary(method)(message, timeout=20, wait_for_ready=False)
    return answer


def say(port: int, context: ssl.SSLContext | None = None) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
        client = context.wrap_socket(plain, server_hostname="localhost") if context else plain
        with client:
            client.sendall(b"hello\n")
            return client.makefile("rb").readline()


def curl(*arguments: str) -> list[str]:
    """[HTTP version, status, body]"""
    command = ["curl", "-sS", "--max-time", "20", "-w", "\n%{http_version} %{http_code}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    body, _, last = done.stdout.rpartition("\n")
    return [*last.split(), body]
