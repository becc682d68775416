"""TLS: names in the ClientHello."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from daemon import Daemon
from peer_site import Echo
from scenarios import from_nginx


def secured(name: str, authority: Authority, folder: Path) -> Echo:
    """An Echo behind TLS with a certificate for `name`."""
    made = Echo(name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(name).write(folder, name))
    made.socket = context.wrap_socket(made.socket, server_side=True, do_handshake_on_connect=False)
    return made


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def daemon(run: Callable[..., Daemon], authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Daemon:
    folder = tmp_path_factory.mktemp("certificates")
    servers = {name: secured(name, authority, folder) for name in ("one.test", "two.test", "other.test")}
    rules = [{"sni": "one.test", "pool": "one"}, {"sni": ["*.two.test", "two.test"], "pool": "two"}]
    certificates = [
        dict(zip(("cert", "key"), authority.issue(name).write(folder, f"web-{name}"), strict=True))
        for name in ("a.test", "b.test")
    ]
    plain = Echo("plain")
    listeners = {
        "secure": {"bind": "127.0.0.1:0", "protocol": "tls", "sni_routes": rules, "pool": "other"},
        "web": {
            "bind": "127.0.0.1:0",
            "protocol": "https",
            "tls": {"certificates": certificates},
            "routes": [{"pool": "plain", "request_headers": {"set": {"X-Sni": "${tls.sni}"}}}],
        },
    }
    pools = {name.partition(".")[0]: {"protocol": "tcp", "endpoints": [s.address]} for name, s in servers.items()}
    pools["plain"] = {"protocol": "http", "endpoints": [plain.address]}
    return run({"listeners": listeners, "pools": pools})


def ask(daemon: Daemon, authority: Authority, name: str, listener: str) -> tuple[dict[str, Any], str]:
    """What answers, and the name in its certificate, which is verified."""
    connection = HTTPConnection("127.0.0.1", daemon.port(listener), timeout=20)
    raw = socket.create_connection(("127.0.0.1", daemon.port(listener)), timeout=20)
    secure = authority.client_context().wrap_socket(raw, server_hostname=name)
    connection.sock = secure
    try:
        certificate: Any = secure.getpeercert()
        connection.request("GET", "/", headers={"Host": name})
        return json.loads(connection.getresponse().read()), certificate["subjectAltName"][0][1]
    finally:
        connection.close()


@from_nginx("stream_ssl_preread.t")
def test_names_pass_through(daemon: Daemon, authority: Authority) -> None:
    """TLS goes to the server that its name leads to, without being opened, and to the default where no rule has the
    name."""
    for name, server in (("one.test", "one.test"), ("two.test", "two.test"), ("other.test", "other.test")):
        got, certificate = ask(daemon, authority, name, "secure")
        assert (got["name"], certificate) == (server, server)


@from_nginx("ssl_sni.t")
def test_names_choose_certificates(daemon: Daemon, authority: Authority) -> None:
    """The name chooses the certificate, and is known to the routes."""
    for name in ("a.test", "b.test"):
        got, certificate = ask(daemon, authority, name, "web")
        assert certificate == name
        assert dict(got["fields"])["x-sni"] == name
