"""TLS through the daemon undecrypted, with OpenSSL at both ends; and accepting while descriptors run out."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme
from daemon import Daemon, eventually, http_listener, route
from proxy_peers import find

Start = Callable[..., Daemon]
NAMES = ("one.example", "two.example")


class TlsServer(threading.Thread):
    """Answers one line over TLS with its name, the client's SNI and the ALPN that was agreed."""

    def __init__(self, authority: trustme.CA, name: str) -> None:
        super().__init__(daemon=True)
        self.name_of = name
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name, f"*.{name}").configure_cert(self.context)
        self.context.set_alpn_protocols(["h2", "http/1.1"])
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listening.getsockname()[1]}"

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        try:
            with self.context.wrap_socket(connection, server_side=True) as tls:
                line = tls.recv(1000)
                tls.sendall(f"{self.name_of} {tls.selected_alpn_protocol()} ".encode() + line)
        except (OSError, ssl.SSLError):
            connection.close()


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def servers(authority: trustme.CA) -> Iterator[dict[str, TlsServer]]:
    made = {name: TlsServer(authority, name) for name in NAMES}
    for server in made.values():
        server.start()
    yield made
    for server in made.values():
        server.listening.close()


def config_of(servers: dict[str, TlsServer]) -> dict[str, Any]:
    one, two = (servers[name].address for name in NAMES)
    rules = [{"sni": "one.example", "pool": "one"}, {"sni": ["two.example", "*.two.example"], "pool": "two"}]
    listener = {"bind": "127.0.0.1:0", "protocol": "tls", "sni_routes": rules}
    pools = {"one": {"protocol": "tcp", "endpoints": [one]}, "two": {"protocol": "tcp", "endpoints": [two]}}
    return {"workers": 2, "listeners": {"secure": listener}, "pools": pools}


def ask(port: int, authority: trustme.CA, name: str, *protocols: str) -> str:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
        context.wrap_socket(connection, server_hostname=name) as tls,
    ):
        tls.sendall(b"hello")
        return b"".join(iter(lambda: tls.recv(4096), b"")).decode()


def test_python_through_sni(start: Start, authority: trustme.CA, servers: dict[str, TlsServer]) -> None:
    daemon = start(config_of(servers))
    port = daemon.port("secure")
    assert ask(port, authority, "one.example") == "one.example None hello"
    assert ask(port, authority, "two.example", "h2") == "two.example h2 hello"
    assert ask(port, authority, "deep.two.example", "http/1.1") == "two.example http/1.1 hello"
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        ask(port, authority, "three.example")
    eventually(lambda: daemon.in_flight() == 0, "in-flight counts")


def test_the_log_has_the_name_that_no_rule_takes(
    start: Start, authority: trustme.CA, servers: dict[str, TlsServer], tmp_path: Path
) -> None:
    log = tmp_path / "access.log"
    port = start({**config_of(servers), "log": {"access": str(log)}}).port("secure")
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        ask(port, authority, "three.example")
    eventually(lambda: log.read_text().endswith("\n"), "a line")
    line = json.loads(log.read_text())
    assert (line["method"], line["host"], line["reason"]) == ("TLS", "three.example", "no-route")


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_through_sni(
    start: Start, authority: trustme.CA, servers: dict[str, TlsServer], tmp_path: Path, version: str
) -> None:
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(trusted)
    port = start(config_of(servers)).port("secure")

    def client(*options: str) -> subprocess.CompletedProcess[str]:
        command = [find("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", version, "-CAfile", str(trusted)]
        return subprocess.run([*command, *options], input="x\n", capture_output=True, text=True, timeout=60)

    good = client("-servername", "two.example", "-verify_hostname", "two.example", "-verify_return_error", "-ign_eof")
    assert "two.example None x" in good.stdout, good.stderr
    for options in (("-servername", "three.example"), ("-noservername",)):
        bad = client(*options)
        assert bad.returncode != 0
        assert "unrecognized name" in bad.stderr + bad.stdout


def test_a_new_rule_takes_effect_on_reload(start: Start, authority: trustme.CA, servers: dict[str, TlsServer]) -> None:
    config = config_of(servers)
    config["listeners"]["secure"]["bind"] = "127.0.0.1:0"
    daemon = start(config)
    port = daemon.port("secure")
    with pytest.raises(ssl.SSLError):
        ask(port, authority, "a.one.example")
    config["listeners"]["secure"]["sni_routes"].append({"sni": "*.one.example", "pool": "one"})
    assert daemon.reload(config)["ok"]
    assert ask(port, authority, "a.one.example") == "one.example None hello"


async def test_a_limit_per_source_set_by_a_reload_counts_what_is_open(
    start: Start, endpoint: Callable[..., Any]
) -> None:
    server = await endpoint("e")
    listener = http_listener(route("/", "app"))
    pools = {"app": {"protocol": "http", "endpoints": [server.address]}}
    daemon = start({"workers": 1, "listeners": {"web": listener}, "pools": pools})
    port = daemon.port()

    async def served(source: str) -> asyncio.StreamWriter | None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()
            return None
        assert head.startswith(b"HTTP/1.1 200")
        return writer

    first = [await served("127.0.0.5") for _ in range(3)]
    listener["max_connections_per_source"] = 3
    config = {"workers": 1, "listeners": {"web": listener}, "pools": pools}
    assert (await asyncio.to_thread(daemon.reload, config))["ok"]
    assert await served("127.0.0.5") is None
    other = await served("127.0.0.6")
    assert other is not None
    for writer in first:
        assert writer is not None
        writer.close()
    await asyncio.to_thread(eventually, lambda: open_connections(daemon) == 1, "the connections' end")
    again = await served("127.0.0.5")
    assert again is not None
    again.close()
    other.close()


def open_connections(daemon: Daemon) -> float:
    return sum(daemon.metrics("tidegate_listener_open_connections").values())


async def test_accepting_goes_on_when_descriptors_run_out(start: Start, endpoint: Callable[..., Any]) -> None:
    """Connections beyond the limit wait in the kernel's queue and are served once others have closed."""
    server = await endpoint("e")
    pool = {"protocol": "http", "endpoints": [server.address]}
    daemon = start({"workers": 1, "listeners": {"web": http_listener(route("/", "app"))}, "pools": {"app": pool}})
    (pid,) = daemon.worker_pids()
    port = daemon.port()
    highest = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
    worker = psutil.Process(pid)
    worker.rlimit(psutil.RLIMIT_NOFILE, (highest + 6, worker.rlimit(psutil.RLIMIT_NOFILE)[1]))
    held = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(30)]
    eventually(lambda: "backing off" in daemon.log, "the worker did not run out of descriptors")
    for client in held[:-1]:
        client.close()

    reader, writer = await asyncio.open_connection(sock=held[-1])
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).startswith(b"HTTP/1.1 200")
    writer.close()
