"""TLS with the real daemon and real peers: curl, openssl, nginx; certificates that change while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from authority import Authority, Pair
from daemon import Daemon, eventually, open_files, route
from ports import free_port
from traffic import load, request

Start = Callable[..., Daemon]
GET = request("GET", "/x")
AUTHORITY = Authority()
CLIENTS = Authority("Clients")


def https(folder: Path, pair: Pair, **tls: Any) -> dict[str, Any]:
    cert, key = pair.write(folder)
    return {
        "bind": "127.0.0.1:0",
        "protocol": "https",
        "tls": {"certificates": [{"cert": cert, "key": key}], **tls},
        "routes": [route("/", "app")],
    }


def config(listener: dict[str, Any], *endpoints: str, **pool: Any) -> dict[str, Any]:
    return {
        "workers": 2,
        "listeners": {"web": listener},
        "pools": {"app": {"protocol": "http", "endpoints": list(endpoints), **pool}},
    }


def trusting(folder: Path) -> str:
    path = folder / "ca.pem"
    path.write_bytes(AUTHORITY.pem)
    return str(path)


async def run(*command: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run, command, input=text, capture_output=True, text=True, timeout=60, check=False
    )


async def curl(port: int, *options: str) -> subprocess.CompletedProcess[str]:
    return await run(
        "curl",
        "-sS",
        "--noproxy",
        "*",
        "--resolve",
        f"example.org:{port}:127.0.0.1",
        *options,
        f"https://example.org:{port}/x",
    )


async def test_curl(start: Start, endpoint: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "clients.pem").write_bytes(CLIENTS.pem)
    asks = {"client_auth": "optional", "client_ca": str(tmp_path / "clients.pem")}
    one = await endpoint("a")
    daemon = start(config(https(tmp_path, AUTHORITY.issue("example.org"), **asks), one.address))
    port, ca = daemon.port(), trusting(tmp_path)
    for options in (("--tlsv1.2", "--tls-max", "1.2"), ("--tlsv1.3",), ("--http1.1",), ()):
        done = await curl(port, "--cacert", ca, *options)
        assert (done.returncode, done.stdout) == (0, "a"), done
    assert (await curl(port)).returncode == 60  # nobody the system trusts
    cert, key = CLIENTS.issue(subject="alice", client=True).write(tmp_path, "alice")
    assert (await curl(port, "--cacert", ca, "--cert", cert, "--key", key)).stdout == "a"
    cert, key = AUTHORITY.issue(subject="mallory", client=True).write(tmp_path, "mallory")
    assert (await curl(port, "--cacert", ca, "--cert", cert, "--key", key)).returncode != 0
    plain = await run("curl", "-s", "--noproxy", "*", f"http://127.0.0.1:{port}/")
    assert "https" in plain.stdout
    handshakes = daemon.metrics("tidegate_tls_handshakes_total")
    assert handshakes[frozenset({("listener", "web"), ("result", "full")})] == 5
    assert handshakes[frozenset({("listener", "web"), ("result", "failed")})] >= 2


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_openssl_resumes_with_any_worker_and_across_a_reload(
    start: Start, endpoint: Callable[..., Any], tmp_path: Path, version: str
) -> None:
    one = await endpoint("a")
    description = config(https(tmp_path, AUTHORITY.issue("example.org")), one.address)
    daemon = start(description)
    session = str(tmp_path / "session.pem")
    common = ("openssl", "s_client", "-connect", f"127.0.0.1:{daemon.port()}", "-servername", "example.org", version)
    ask = "GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    first = await run(*common, "-ign_eof", "-sess_out", session, text=ask)
    assert "New, TLS" in first.stdout, first
    for _ in range(8):
        again = await run(*common, "-ign_eof", "-sess_in", session, text=ask)
        assert "Reused, TLS" in again.stdout, again
    assert (await asyncio.to_thread(daemon.reload, description))["ok"]
    again = await run(*common, "-ign_eof", "-sess_in", session, text=ask)
    assert "Reused, TLS" in again.stdout, again


async def test_certificates_change_under_load(start: Start, endpoint: Callable[..., Any], tmp_path: Path) -> None:
    one = await endpoint("a")
    description = config(https(tmp_path, AUTHORITY.issue("example.org", subject="first")), one.address)
    daemon = start(description)
    port, processes = daemon.port(), daemon.worker_pids()
    trust = AUTHORITY.client_context()

    def shown() -> str:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
            trust.wrap_socket(plain, server_hostname="example.org") as secured,
        ):
            certificate: Any = secured.getpeercert()
            return str(certificate["subject"][0][0][1])

    assert await asyncio.to_thread(shown) == "first"
    async with load(port, [GET], clients=8, tls=trust) as running:
        await running.until(50)
        # By a reload.
        AUTHORITY.issue("example.org", subject="second").write(tmp_path)
        assert (await asyncio.to_thread(daemon.reload, description))["ok"]
        assert await asyncio.to_thread(shown) == "second"
        # By itself.
        AUTHORITY.issue("example.org", subject="third").write(tmp_path)
        await asyncio.to_thread(eventually, lambda: shown() == "third", "the changed certificate")
        await running.until(50)
        # A broken one changes nothing, and is shown.
        (tmp_path / "server.pem").write_text("not a certificate\n")
        await asyncio.to_thread(eventually, lambda: daemon.status()["tls"]["problems"], "the problem in the status")
        assert "holds no certificate" in daemon.status()["tls"]["problems"][0]
        assert await asyncio.to_thread(shown) == "third"
        outcome = await asyncio.to_thread(daemon.reload, description)
        assert outcome["ok"] is False
        assert "holds no certificate" in outcome["error"]
        assert await asyncio.to_thread(shown) == "third"
        # A worker that starts meanwhile has the good one.
        os.kill(processes[0], 9)
        await asyncio.to_thread(eventually, lambda: processes[0] not in daemon.worker_pids(), "another worker")
        await asyncio.to_thread(
            eventually, lambda: all(w["state"] == "running" for w in daemon.status()["workers"]), "a running worker"
        )
        for _ in range(4):
            assert await asyncio.to_thread(shown) == "third"
        # Repaired.
        AUTHORITY.issue("example.org", subject="fourth").write(tmp_path)
        await asyncio.to_thread(eventually, lambda: shown() == "fourth", "the repaired certificate")
        assert daemon.status()["tls"]["problems"] == []
    lost = {reason for client, reason in running.failures}
    assert len(running.failures) <= 8, lost  # those of the worker that was killed
    assert all("200" not in reason for reason in lost)
    assert "BEGIN" not in daemon.log


async def test_no_connection_is_lost_while_certificates_change(
    start: Start, endpoint: Callable[..., Any], tmp_path: Path
) -> None:
    one = await endpoint("a")
    description = config(https(tmp_path, AUTHORITY.issue("example.org", subject="first")), one.address)
    daemon = start(description)
    trust = AUTHORITY.client_context()
    generation = daemon.status()["generation"]
    async with load(daemon.port(), [GET], clients=8, tls=trust) as running:
        for i in range(3):
            await running.until(50)
            AUTHORITY.issue("example.org", subject=f"number {i}").write(tmp_path)
            wanted = generation + i + 1
            await asyncio.to_thread(
                eventually, lambda wanted=wanted: daemon.status()["generation"] >= wanted, "the changed certificate"
            )
        await running.until(50)
    assert running.reasons == []
    assert daemon.status()["tls"]["reloads"]["ok"] >= 3


async def test_status_and_metrics_show_when_certificates_expire(
    start: Start, endpoint: Callable[..., Any], tmp_path: Path
) -> None:
    one = await endpoint("a")
    daemon = start(config(https(tmp_path, AUTHORITY.issue("example.org", start=-20, days=3)), one.address))
    (row,) = daemon.status()["tls"]["certificates"]
    assert row["owner"] == "listeners.web"
    assert row["names"] == ["example.org"]
    assert row["state"] == "expiring"
    assert abs(row["not_after"] - (time.time() + 3 * 86400)) < 3600
    ((labels, value),) = daemon.metrics("tidegate_tls_certificate_not_after_seconds").items()
    assert ("owner", "listeners.web") in labels
    assert value == row["not_after"]
    assert " expires on " in daemon.log


async def test_files_that_cannot_be_used_are_named(tmp_path: Path, start: Start) -> None:
    listener = https(tmp_path, AUTHORITY.issue("example.org"))
    AUTHORITY.issue("example.org").write(tmp_path, "other")
    listener["tls"]["certificates"][0]["key"] = str(tmp_path / "other.key")
    listener["tls"]["certificates"].append({"cert": str(tmp_path / "none.pem"), "key": str(tmp_path / "other.key")})
    daemon = start(config(listener, "127.0.0.1:9"), ready=False)
    assert daemon.process.wait(60) != 0
    assert "listeners.web.tls.certificates[0].key" in daemon.log
    assert "the key does not belong to the certificate" in daemon.log
    assert "listeners.web.tls.certificates[1].cert" in daemon.log
    assert "No such file or directory" in daemon.log


NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/server.pem;
        ssl_certificate_key {folder}/server.key;
        ssl_client_certificate {folder}/clients.pem;
        ssl_verify_client {verify};
        location / {{ return 200 "$ssl_protocol $ssl_client_s_dn $ssl_session_reused"; }}
    }}
}}
"""


@contextlib.contextmanager
def nginx(folder: Path, pair: Pair, verify: str) -> Iterator[str]:
    folder.mkdir()
    pair.write(folder)
    (folder / "clients.pem").write_bytes(CLIENTS.pem)
    port = free_port()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, verify=verify))
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")])
    try:
        eventually(lambda: socket.create_connection(("127.0.0.1", port), 1).close() is None, "nginx", 20)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize("health", ["http", "tcp"])
async def test_nginx_behind(start: Start, tmp_path: Path, health: str) -> None:
    ours = CLIENTS.issue(subject="tidegate", client=True).write(tmp_path, "ours")
    inside = trusting(tmp_path)
    mutual = {"ca_file": inside, "server_name": "models.test", "cert": ours[0], "key": ours[1]}
    check = {"health": {"type": health, "interval": "100ms", "initial": "down", "rise": 1}}
    plain = {"bind": "127.0.0.1:0", "protocol": "http", "routes": [route("/", "app")]}
    with nginx(tmp_path / "nginx", AUTHORITY.issue("models.test"), "on") as address:
        daemon = start(config(plain, address, tls=mutual, **check))
        eventually(lambda: daemon.pool("app")["endpoints"][0]["health"] == "up", "the check through TLS")
        answer = await run("curl", "-s", f"http://127.0.0.1:{daemon.port()}/")
        assert answer.stdout.startswith("TLSv1.3 CN=tidegate"), answer
        # Without our certificate nginx answers 400, and with another name it is not believed.
        changed = config(plain, address, tls={"ca_file": inside, "server_name": "models.test"})
        assert (await asyncio.to_thread(daemon.reload, changed))["ok"]
        assert "No required SSL certificate" in (await run("curl", "-s", f"http://127.0.0.1:{daemon.port()}/")).stdout
        changed = config(plain, address, tls={**mutual, "server_name": "other.test"}, **check)
        assert (await asyncio.to_thread(daemon.reload, changed))["ok"]
        eventually(lambda: daemon.pool("app")["endpoints"][0]["check"]["last"], "a check")
        changed = config(plain, address, tls={**mutual, "server_name": "other.test"})
        assert (await asyncio.to_thread(daemon.reload, changed))["ok"]
        status = await run("curl", "-s", "-o", os.devnull, "-w", "%{http_code}", f"http://127.0.0.1:{daemon.port()}/")
        assert status.stdout == "502"
        assert "hostname mismatch" in daemon.log.lower()
        changed = config(plain, address, tls={"insecure_skip_verify": True, "cert": ours[0], "key": ours[1]})
        assert (await asyncio.to_thread(daemon.reload, changed))["ok"]
        assert (await run("curl", "-s", f"http://127.0.0.1:{daemon.port()}/")).stdout.startswith("TLSv1.3 CN=tidegate")
        assert "insecure_skip_verify is on" in daemon.log


async def test_handshakes_leave_no_descriptors(start: Start, endpoint: Callable[..., Any], tmp_path: Path) -> None:
    one = await endpoint("a")
    daemon = start(config(https(tmp_path, AUTHORITY.issue("example.org"), handshake_timeout="500ms"), one.address))
    port, pids = daemon.port(), daemon.worker_pids()
    trust = AUTHORITY.client_context()
    async with load(port, [GET], clients=4, tls=trust) as running:
        await running.until(40)
    before = sum(map(open_files, pids))
    for i in range(60):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall((b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n", b"nonsense\r\n")[i % 4])
            if i % 3 == 0:
                with contextlib.suppress(OSError):
                    client.recv(1000)
    eventually(lambda: sum(map(open_files, pids)) <= before, "closed descriptors")
    async with load(port, [GET], clients=4, tls=trust) as running:
        await running.until(40)
    assert running.reasons == []


async def test_revocations_that_change_on_disk(start: Start, endpoint: Callable[..., Any], tmp_path: Path) -> None:
    """A stapled response, and a list of clients' certificates, are taken into use as certificates are."""
    server, pair, client = await endpoint("a"), AUTHORITY.issue("a.test"), CLIENTS.issue(subject="c", client=True)
    (tmp_path / "clients.pem").write_bytes(CLIENTS.pem)
    (tmp_path / "crl.pem").write_bytes(CLIENTS.revoke())
    (tmp_path / "server.ocsp").write_bytes(AUTHORITY.staple(pair, days=-1))
    clients = {"client_auth": "required", "client_ca": str(tmp_path / "clients.pem")}
    listener = https(tmp_path, pair, **clients, crl_file=str(tmp_path / "crl.pem"))
    listener["tls"]["certificates"][0]["ocsp_file"] = str(tmp_path / "server.ocsp")
    daemon = start(config(listener, server.address))
    assert "the OCSP response" in daemon.log
    cert, key = client.write(tmp_path, "client")
    port = daemon.port()

    def look() -> str:
        """What openssl says of the response; nothing of it where the handshake fails."""
        command = ("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-status", "-tls1_2", "-cert", cert)
        done = subprocess.run(
            [*command, "-key", key], input="", capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout + done.stderr

    assert "no response sent" in await asyncio.to_thread(look)
    (tmp_path / "new").write_bytes(AUTHORITY.staple(pair, days=1))
    (tmp_path / "new").rename(tmp_path / "server.ocsp")
    await asyncio.to_thread(eventually, lambda: "Cert Status: good" in look(), "the new response")
    (tmp_path / "new").write_bytes(CLIENTS.revoke(client))
    (tmp_path / "new").rename(tmp_path / "crl.pem")
    await asyncio.to_thread(eventually, lambda: "certificate revoked" in look(), "the new list")
