"""Certificates by ACME: a real client (lego) gets and renews one from a real server (Pebble) through the daemon."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from acme_server import AcmeServer
from authority import Authority
from daemon import Daemon, http_listener
from ports import free_port
from traffic import ask_once, request
from waiting import eventually

Start = Callable[..., Daemon]
NAME = "gate.example.test"
LEGO = shutil.which("lego") or "/usr/bin/lego"
# As docs/howto/acme.md has it.
HOOK = """#!/bin/sh
set -e
install -m 600 "$LEGO_CERT_KEY_PATH" {folder}/server.key.new
install -m 644 "$LEGO_CERT_PATH" {folder}/server.pem.new
mv {folder}/server.key.new {folder}/server.key
mv {folder}/server.pem.new {folder}/server.pem
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[[int], AcmeServer]]:
    made: list[AcmeServer] = []

    def make(http_port: int) -> AcmeServer:
        made.append(AcmeServer(tmp_path / "acme", http_port))
        return made[-1].wait_ready()

    yield make
    for each in made:
        each.stop()


async def test_a_certificate_is_got_and_renewed_without_a_restart(
    start: Start, server: Callable[[int], AcmeServer], tmp_path: Path
) -> None:
    # The listener begins with a certificate of its own, since there is no other yet.
    certificate, key = Authority("placeholder").issue(NAME).write(tmp_path)
    hook = tmp_path / "hook"
    hook.write_text(HOOK.format(folder=tmp_path))
    hook.chmod(0o755)
    client = free_port()
    challenges: dict[str, Any] = {"match": {"path": {"prefix": "/.well-known/acme-challenge/"}}, "pool": "acme"}
    daemon = start(
        {
            "listeners": {
                "web": http_listener(challenges, {"redirect": {"scheme": "https", "status": 308}}),
                "secure": {
                    "bind": "127.0.0.1:0",
                    "protocol": "https",
                    "tls": {"certificates": [{"cert": certificate, "key": key}]},
                    "routes": [{"respond": {"status": 200, "body": "hello"}}],
                },
            },
            "pools": {"acme": {"protocol": "http", "endpoints": [f"127.0.0.1:{client}"]}},
        }
    )
    port = daemon.port("web")
    acme = server(port)
    # While no client runs, a challenge is nobody's, and all else is sent to https.
    assert (await ask_once(port, request("GET", "/.well-known/acme-challenge/x"))).status in (502, 503)
    assert (await ask_once(port, request("GET", "/"))).status == 308

    def lego(*arguments: str) -> None:
        done = subprocess.run(
            [
                LEGO, "--path", str(tmp_path / "lego"), "--server", acme.directory, "--email", "ops@example.test",
                "--accept-tos", "--domains", NAME, "--http", "--http.port", f"127.0.0.1:{client}", *arguments,
            ],
            env={**os.environ, "LEGO_CA_CERTIFICATES": str(acme.ca)}, capture_output=True, text=True, timeout=90,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    async def shown(root: str) -> tuple[str, str]:
        """The serial number of the certificate that a client gets who trusts `root`, and the answer."""
        context = ssl.create_default_context(cadata=root)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", daemon.port("secure"), ssl=context, server_hostname=NAME
        )
        writer.write(f"GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        serial = writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
        writer.close()
        return serial, answer.partition(b"\r\n\r\n")[2].decode()

    async def changed(root: str, before: str) -> str:
        async with asyncio.timeout(30):
            while True:
                try:
                    serial, body = await shown(root)
                    if serial != before:
                        assert body == "hello"
                        return serial
                except ssl.SSLCertVerificationError:
                    assert not before  # only the first one is of another authority
                await asyncio.sleep(0.1)

    await asyncio.to_thread(lego, "run", "--run-hook", str(hook))
    root = acme.root()
    first = await changed(root, "")
    await asyncio.to_thread(lego, "renew", "--days", "3650", "--no-random-sleep", "--renew-hook", str(hook))
    await changed(root, first)
    await asyncio.to_thread(eventually, lambda: daemon.log.count("new certificate from") == 2, "both in the log")
    (row,) = daemon.status()["tls"]["certificates"]
    assert row["names"] == [NAME]
