"""The PROXY protocol with those who speak it: HAProxy and nginx, in front of the daemon and behind it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from compiled.bytes_to_values import proxy_header
from daemon import Daemon, eventually
from ports import free_port
from proxy_peers import haproxy, nginx

Start = Callable[..., Daemon]

# Addresses of this machine that tell a connection's sides apart.
CLIENT, FRONT = "127.0.0.2", "127.0.0.3"


def get(port: int, source: str = CLIENT, host: str = "127.0.0.1") -> tuple[int, str]:
    """One GET over a new connection that comes from `source`: its own port, and the answer's body."""
    connection = http.client.HTTPConnection(host, port, timeout=20, source_address=(source, 0))
    with contextlib.closing(connection):
        connection.connect()
        own = int(connection.sock.getsockname()[1])
        connection.request("GET", "/")
        answer = connection.getresponse()
        body = answer.read().decode()
        assert answer.status == 200, (answer.status, body)
        return own, body


def site_of(protocol: str, endpoint: str, **settings: Any) -> dict[str, Any]:
    """A daemon's configuration with one listener, `web`, which believes those of FRONT."""
    listener: dict[str, Any] = {"bind": "127.0.0.1:0", "protocol": protocol, "proxy_protocol": {"from": [FRONT]}}
    if protocol == "http":
        listener["routes"] = [{"pool": "app"}]
    else:
        listener["pool"] = "app"
    pool = {"protocol": protocol, "endpoints": [endpoint], **settings.pop("pool", {})}
    return {"workers": 1, "listeners": {"web": {**listener, **settings}}, "pools": {"app": pool}}


HAPROXY_ENDPOINT = """
frontend end
    mode http
    bind 127.0.0.1:{port} {accept}
    http-request return status 200 content-type text/plain lf-string "%[src]:%[src_port] %[req.hdr(x-forwarded-for)]"
"""
NGINX_ENDPOINT = """
    server {{
        listen 127.0.0.1:{port} proxy_protocol;
        return 200 "$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_addr:$proxy_protocol_server_port";
    }}
"""


@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"])
def test_haproxy_in_front_of_http(start: Start, tmp_path: Path, version: str) -> None:
    end, front = free_port(), free_port()
    with haproxy(tmp_path, HAPROXY_ENDPOINT.format(port=end, accept=""), end):
        log = tmp_path / "access.log"
        daemon = start({**site_of("http", f"127.0.0.1:{end}"), "log": {"access": str(log)}})
        body = f"""
listen front
    mode tcp
    bind 127.0.0.1:{front}
    unique-id-format %{{+X}}o%ci%cp
    source {FRONT}
    server tidegate 127.0.0.1:{daemon.port()} {version}
"""
        with haproxy(tmp_path, body, front):
            for _ in range(3):
                port, answer = get(front)
                assert answer.split(" ")[1] == CLIENT
            # A probe of the front that was ready late may be in the log, too.
            answered = eventually(lambda: ok if len(ok := answers_of(log)) >= 3 else None, "the access log")
            assert (answered[-1]["client"], answered[-1]["port"]) == (CLIENT, port)
            with pytest.raises((ConnectionError, http.client.HTTPException)):
                get(daemon.port())  # not from FRONT
    counts = eventually(lambda: c if any((c := refusals(daemon)).values()) else None, "the count")
    assert {reason: n for reason, n in counts.items() if n} == {"proxy-untrusted": 1}


def read_log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def answers_of(path: Path) -> list[dict[str, Any]]:
    return [record for record in read_log(path) if record["status"] == 200]


def refusals(daemon: Daemon) -> dict[str, float]:
    """Connections refused, by reason."""
    return {dict(labels)["reason"]: n for labels, n in daemon.metrics("tidegate_connections_refused_total").items()}


def test_haproxy_checks_our_health_with_a_local_header(start: Start, tmp_path: Path) -> None:
    """Its own connections carry the command LOCAL: they pass where a header is required, under HAProxy's address."""
    end, front = free_port(), free_port()
    with haproxy(tmp_path, HAPROXY_ENDPOINT.format(port=end, accept=""), end):
        daemon = start(site_of("http", f"127.0.0.1:{end}"))
        body = f"""
listen front
    mode tcp
    bind 127.0.0.1:{front}
    option httpchk GET /
    source {FRONT}
    server tidegate 127.0.0.1:{daemon.port()} send-proxy-v2 check check-send-proxy inter 100ms fall 1
"""

        def answered() -> float:
            rows = daemon.metrics("tidegate_route_requests_total").items()
            return sum(n for labels, n in rows if ("code", "2xx") in labels)

        with haproxy(tmp_path, body, front):
            eventually(lambda: answered() > 5, "health checks")
            assert get(front)[1].split(" ")[1] == CLIENT
            assert not any(refusals(daemon).values())


def test_nginx_in_front_of_tcp(start: Start, tmp_path: Path) -> None:
    end, front = free_port(), free_port()
    with haproxy(tmp_path, HAPROXY_ENDPOINT.format(port=end, accept="accept-proxy"), end):
        daemon = start(site_of("tcp", f"127.0.0.1:{end}", pool={"send_proxy": "v1"}))
        body = f"""
    server {{
        listen 127.0.0.1:{front};
        proxy_bind {FRONT};
        proxy_pass 127.0.0.1:{daemon.port()};
        proxy_protocol on;
    }}
"""
        with nginx(tmp_path, body, front, stream=True):
            port, answer = get(front)
            assert answer.split(" ")[0] == f"{CLIENT}:{port}"


@pytest.mark.parametrize("send", ["v1", "v2", {"version": "v2", "unique_id": True, "checksum": True}])
def test_haproxy_behind(start: Start, tmp_path: Path, send: Any) -> None:
    end = free_port()
    with haproxy(tmp_path, HAPROXY_ENDPOINT.format(port=end, accept="accept-proxy"), end):
        config = site_of("tcp", f"127.0.0.1:{end}", pool={"send_proxy": send})
        del config["listeners"]["web"]["proxy_protocol"]
        daemon = start(config)
        for _ in range(3):
            port, answer = get(daemon.port())
            assert answer.split(" ")[0] == f"{CLIENT}:{port}"


@pytest.mark.parametrize("send", ["v1", "v2", {"version": "v2", "unique_id": True, "checksum": True}])
def test_nginx_behind(start: Start, tmp_path: Path, send: Any) -> None:
    end = free_port()
    with nginx(tmp_path, NGINX_ENDPOINT.format(port=end), end):
        config = site_of("tcp", f"127.0.0.1:{end}", pool={"send_proxy": send})
        del config["listeners"]["web"]["proxy_protocol"]
        daemon = start(config)
        port, answer = get(daemon.port())
        assert answer == f"{CLIENT}:{port} 127.0.0.1:{daemon.port()}"


def test_haproxy_in_front_and_behind_with_fields(start: Start, tmp_path: Path) -> None:
    """The authority and unique id that HAProxy sends reach the HAProxy behind."""
    end, front = free_port(), free_port()
    behind = f"""
frontend end
    mode http
    bind 127.0.0.1:{end} accept-proxy
    http-request return status 200 content-type text/plain lf-string "%[src] %[fc_pp_unique_id] %[fc_pp_authority]"
"""
    with haproxy(tmp_path, behind, end):
        daemon = start(site_of("tcp", f"127.0.0.1:{end}", pool={"send_proxy": {"version": "v2", "checksum": True}}))
        body = f"""
listen front
    mode tcp
    bind 127.0.0.1:{front}
    unique-id-format id-%cp
    source {FRONT}
    server tidegate 127.0.0.1:{daemon.port()} send-proxy-v2 proxy-v2-options unique-id,crc32c
"""
        with haproxy(tmp_path, body, front):
            port, answer = get(front)
            assert answer.split(" ")[:2] == [CLIENT, f"id-{port}"]


NGINX_TLS_ENDPOINT = """
    server {{
        listen 127.0.0.1:{port} proxy_protocol;
        return 200 "$proxy_protocol_addr|$proxy_protocol_tlv_ssl_version|$proxy_protocol_tlv_ssl_cn|\
$proxy_protocol_tlv_ssl_cipher|$proxy_protocol_tlv_ssl_sig_alg|$proxy_protocol_tlv_ssl_key_alg|\
$proxy_protocol_tlv_ssl_verify|$proxy_protocol_tlv_alpn|$proxy_protocol_tlv_authority|$proxy_protocol_tlv_0xe7";
    }}
"""
HAPROXY_TLS_ENDPOINT = """
frontend end
    mode http
    bind 127.0.0.1:{port} accept-proxy
    http-request return status 200 content-type text/plain lf-string \
"%[src]|%[fc_pp_tlv(0x20),hex]|%[fc_pp_tlv(0x01)]|%[fc_pp_authority]|%[fc_pp_tlv(0xE7)]"
"""


@pytest.mark.parametrize("behind", ["nginx", "haproxy"])
def test_tls_that_ends_here_is_told_to_those_behind(start: Start, tmp_path: Path, behind: str) -> None:
    """With a field of a type of its own that the header in front had."""
    end = free_port()
    servers, clients = Authority(), Authority("Clients")
    chain, key = servers.issue("gate.test").write(tmp_path)
    (tmp_path / "clients.pem").write_bytes(clients.pem)
    context = servers.client_context()
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(*clients.issue("c", subject="client 7", client=True).write(tmp_path, "client"))
    tls = {
        "certificates": [{"cert": chain, "key": key}],
        "alpn": ["http/1.1"],
        "client_auth": "required",
        "client_ca": str(tmp_path / "clients.pem"),
    }
    server = (
        nginx(tmp_path, NGINX_TLS_ENDPOINT.format(port=end), end)
        if behind == "nginx"
        else haproxy(tmp_path, HAPROXY_TLS_ENDPOINT.format(port=end), end)
    )
    with server:
        daemon = start(
            site_of("tcp", f"127.0.0.1:{end}", tls=tls, pool={"send_proxy": {"version": "v2", "checksum": True}})
        )
        plain = socket.create_connection(("127.0.0.1", daemon.port()), timeout=20, source_address=(FRONT, 0))
        plain.sendall(proxy_header(2, ("203.0.113.7", 1), ("203.0.113.8", 2), tlvs=b"\xe7\0\4mine"))
        with context.wrap_socket(plain, server_hostname="gate.test") as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(4096), b"")).decode()
            version, cipher = client.version(), client.cipher()
    said = answer.rpartition("\r\n\r\n")[2].split("|")
    assert cipher is not None
    if behind == "nginx":
        algorithms = ["ecdsa-with-SHA256", "EC256"]
        secured = [version, "client 7", cipher[0], *algorithms, "0"]
    else:
        texts = ((0x21, version), (0x22, "client 7"), (0x23, cipher[0]), (0x24, "ecdsa-with-SHA256"), (0x25, "EC256"))
        fields = b"".join(bytes([kind, 0, len(text)]) + text.encode() for kind, text in texts)
        secured = [(b"\7\0\0\0\0" + fields).hex().upper()]
    assert said == ["203.0.113.7", *secured, "http/1.1", "gate.test", "mine"]


def test_a_unix_socket_behind_haproxy(start: Start, tmp_path: Path) -> None:
    end, front = free_port(), free_port()
    path = tmp_path / "in.sock"
    with haproxy(tmp_path, HAPROXY_ENDPOINT.format(port=end, accept=""), end):
        config = site_of("http", f"127.0.0.1:{end}", bind=f"unix:{path}", proxy_protocol={"from": ["unix"]})
        start(config)
        body = f"""
listen front
    mode tcp
    bind 127.0.0.1:{front}
    server tidegate unix@{path} send-proxy-v2
"""
        with haproxy(tmp_path, body, front):
            assert get(front)[1].split(" ")[1] == CLIENT


@pytest.mark.parametrize(
    ("version", "header"), [("v1", b"PROXY UNKNOWN\r\n"), ("v2", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")]
)
def test_a_client_of_a_unix_socket_has_no_address(start: Start, tmp_path: Path, version: str, header: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket(socket.AF_UNIX) as client:
        listening.settimeout(20)
        endpoint = f"127.0.0.1:{listening.getsockname()[1]}"
        config = site_of("tcp", endpoint, bind=f"unix:{tmp_path}/in.sock", pool={"send_proxy": version})
        del config["listeners"]["web"]["proxy_protocol"]
        start(config)
        client.connect(f"{tmp_path}/in.sock")
        client.sendall(b"data")
        connection, _ = listening.accept()
        with connection:
            connection.settimeout(20)
            got = b""
            while len(got) < len(header) + 4:
                got += connection.recv(100)
            assert got == header + b"data"


def test_a_reload_begins_and_ends_to_ask_for_headers(start: Start, tmp_path: Path) -> None:
    end = free_port()
    with haproxy(tmp_path, HAPROXY_ENDPOINT.format(port=end, accept=""), end):
        config = site_of("http", f"127.0.0.1:{end}", bind=f"127.0.0.1:{free_port()}")
        settings = config["listeners"]["web"].pop("proxy_protocol")
        daemon = start(config)
        port = daemon.port()
        assert get(port)[1].split(" ")[1] == CLIENT
        config["listeners"]["web"]["proxy_protocol"] = settings
        assert daemon.reload(config)["ok"]
        with socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(FRONT, 0)) as client:
            client.sendall(b"PROXY TCP4 203.0.113.7 203.0.113.8 1 2\r\nGET / HTTP/1.0\r\n\r\n")
            assert b" 203.0.113.7" in b"".join(iter(lambda: client.recv(4096), b""))
        del config["listeners"]["web"]["proxy_protocol"]
        assert daemon.reload(config)["ok"]
        assert get(port)[1].split(" ")[1] == CLIENT
