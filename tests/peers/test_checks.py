"""Health checks: HTTP, steps over TCP, Redis, SMTP, agents, rise and fall."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from daemon import Daemon, eventually
from peer_site import Echo, Speaker, ask
from scenarios import from_haproxy

REDIS_PING = 6  # octets of an inline PING


STARTS = b"SFATAL\0C57P03\0Mthe database system is starting up\0\0"


def smtp(*lines: bytes) -> Callable[[socket.socket], None]:
    """A mail server that says one of `lines` at first and after each line that it gets."""

    def talk(connection: socket.socket) -> None:
        for line in lines:
            connection.sendall(line + b"\r\n")
            if not connection.recv(512):
                return

    return talk


def agent(line: bytes) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        connection.recv(5)
        connection.sendall(line)

    return talk


@pytest.fixture(scope="module")
def servers() -> dict[str, Any]:
    return {
        "http": Echo("http", 202, X_Test="true"),
        "http-bad": Echo("http-bad", 200),
        "steps": Speaker(b"valid", 10, b"valid"),
        "steps-short": Speaker(b"valid"),
        "steps-bad": Speaker(b"error: no\r\n", 10),
        "redis": Speaker(REDIS_PING, b"+PONG\r\n", 6),
        "redis-bad": Speaker(REDIS_PING, b"-Error message\r\n"),
        "smtp": Speaker(talk=smtp(b"220 mx", b"250-mx\r\n250-KEYWORD\r\n250 LAST", b"221 bye")),
        "smtp-none": Speaker(talk=smtp(b"I am no mail server")),
        "smtp-later": Speaker(talk=smtp(b"421 Try again later")),
        "smtp-refuses": Speaker(talk=smtp(b"220 mx", b"512 DNS error")),
        "ldap": Speaker(14, bytes.fromhex("300c02010161070a010004000400"), 7),
        "ldap-busy": Speaker(14, bytes.fromhex("300c02010161070a013304000400"), 7),
        "postgres": Speaker(8, b"R\0\0\0\x08\0\0\0\x03"),
        "postgres-starts": Speaker(8, b"E" + struct.pack("!I", 4 + len(STARTS)) + STARTS),
        "weighed": Echo("weighed"),
        "resting": Echo("resting"),
        "stopped": Echo("stopped"),
        "rises": Echo("rises"),
    }


@pytest.fixture(scope="module")
def daemon(run: Callable[..., Daemon], servers: dict[str, Any]) -> Daemon:
    pace = {"interval": "200ms", "timeout": "400ms", "rise": 1, "fall": 1}
    steps = [{"expect": "^valid"}, {"send": "abcdefghij"}, {"expect": "valid"}]

    def pool(name: str, protocol: str = "tcp", **more: Any) -> dict[str, Any]:
        return {"protocol": protocol, "endpoints": [servers[name].address], **more}

    def asked(line: bytes) -> dict[str, Any]:
        speaker = Speaker(talk=agent(line))
        return {"port": speaker.server_address[1], "send": "pouet", "interval": "200ms"}

    http = {"type": "http", **pace}
    pools = {
        "http": pool(
            "http", "http",
            health={**http, "path": "/status", "method": "POST", "host": "my-www-host", "headers": {"X-Test": "true"},
                    "status": ["200-399"], "body": {"contains": '"name"'}},
        ),
        "http-bad": pool("http-bad", "http", health={**http, "status": [202]}),
        "http-text": pool("http-bad", "http", health={**http, "body": {"contains": "not there"}}),
        "steps": pool("steps", health={"type": "tcp", **pace, "steps": steps}),
        "steps-short": pool("steps-short", health={"type": "tcp", **pace, "steps": steps}),
        "steps-bad": pool("steps-bad", health={"type": "tcp", **pace, "steps": steps}),
        **{name: pool(name, health={"type": name.partition("-")[0], **pace})
           for name in ("redis", "redis-bad", "smtp", "smtp-none", "smtp-later", "smtp-refuses", "ldap", "ldap-busy",
                        "postgres", "postgres-starts")},
        "weighed": {"protocol": "http", "endpoints": [{"address": servers["weighed"].address, "weight": 100}],
                    "agent": asked(b"75%,maxconn:30\n")},
        "resting": pool("resting", "http", agent=asked(b"maint\n")),
        "stopped": pool("stopped", "http", agent=asked(b"down #for a while\n")),
        "rises": pool("rises", "http", health={**http, "rise": 2, "fall": 2}),
        "many": {
            "protocol": "http", "policy": "round_robin",
            "endpoints": [servers["weighed"].address, *(f"127.0.0.1:{port}" for port in range(1, 20))],
            "health": {"type": "tcp", **pace}, "outlier": "off",
        },
    }  # fmt: skip
    web = {"bind": "127.0.0.1:0", "protocol": "http", "routes": [{"pool": "many"}]}
    return run({"listeners": {"web": web}, "pools": pools})


def endpoint(daemon: Daemon, pool: str) -> dict[str, Any]:
    found: dict[str, Any] = daemon.pool(pool)["endpoints"][0]
    return found


def becomes(daemon: Daemon, pool: str, health: str) -> dict[str, Any]:
    def there() -> dict[str, Any] | None:
        found = endpoint(daemon, pool)
        return found if found["health"] == health else None

    return eventually(there, f"{pool} is {health}")


@from_haproxy("checks/http-check-send.vtc")
def test_what_a_check_sends(daemon: Daemon, servers: dict[str, Any]) -> None:
    """A check over HTTP has the method, path, host and headers that it was given."""
    becomes(daemon, "http", "up")
    head = servers["http"].heads[-1]
    assert (head["method"], head["target"]) == ("POST", "/status")
    assert ("host", "my-www-host") in head["fields"]
    assert ("x-test", "true") in head["fields"]


@from_haproxy("checks/http-check-expect.vtc", differs="A check looks at the status and the body; at no headers.")
def test_what_a_check_expects(daemon: Daemon) -> None:
    """A check over HTTP is good by the range of its status and by its body; an answer out of the range, or without the
    text, is not."""
    becomes(daemon, "http", "up")
    assert "200" in str(becomes(daemon, "http-bad", "down")["check"])
    becomes(daemon, "http-text", "down")


@from_haproxy("checks/tcp-check_min-recv.vtc")
def test_steps(daemon: Daemon, servers: dict[str, Any]) -> None:
    """A check over TCP expects, sends and expects again; one whose second text does not come, or whose first is wrong,
    fails and says where."""
    becomes(daemon, "steps", "up")
    assert servers["steps"].heard[0] == b"abcdefghij"
    assert "step" in str(becomes(daemon, "steps-short", "down")["check"])
    assert "step" in str(becomes(daemon, "steps-bad", "down")["check"])


@from_haproxy(
    "checks/redis-check.vtc", differs="PING is an inline command, which servers that only look like Redis know, too."
)
def test_redis(daemon: Daemon, servers: dict[str, Any]) -> None:
    """A Redis server that answers PING is up; one that answers with an error is down."""
    becomes(daemon, "redis", "up")
    assert servers["redis"].heard[0] == b"PING\r\n"
    assert "Error message" in str(becomes(daemon, "redis-bad", "down")["check"])


@from_haproxy("checks/smtp-check.vtc")
def test_smtp(daemon: Daemon) -> None:
    """A mail server that greets and answers EHLO, also in several lines, is up; one that is none, has no time, or
    refuses EHLO is down."""
    becomes(daemon, "smtp", "up")
    for pool in ("smtp-none", "smtp-later", "smtp-refuses"):
        becomes(daemon, pool, "down")


@from_haproxy("checks/ldap-check.vtc")
def test_ldap(daemon: Daemon) -> None:
    """A directory that answers an anonymous bind is up; one that is busy is down."""
    becomes(daemon, "ldap", "up")
    becomes(daemon, "ldap-busy", "down")


@from_haproxy("checks/pgsql-check.vtc")
def test_postgresql(daemon: Daemon) -> None:
    """A database that asks for the password is up; one that still starts is down, with what it said."""
    becomes(daemon, "postgres", "up")
    assert "starting up" in str(becomes(daemon, "postgres-starts", "down")["check"])


@from_haproxy("checks/agent-check.vtc")
def test_agents(daemon: Daemon) -> None:
    """What an agent says changes weight and the most requests at once, rests an endpoint, or takes it out."""

    def said() -> bool:
        found = endpoint(daemon, "weighed")["agent"]
        return bool(found["weight_percent"] == 75 and found["max_in_flight"] == 30)

    eventually(said, "the agent's weight")
    eventually(lambda: endpoint(daemon, "resting")["admin"] == "maintenance", "maintenance")
    becomes(daemon, "stopped", "down")


@from_haproxy("checks/4be_1srv_health_checks.vtc")
def test_rise_and_fall(daemon: Daemon, servers: dict[str, Any]) -> None:
    """An endpoint in maintenance gets nothing, and is up again after it; it goes down after so many failed checks in a
    row, and up after so many good ones."""
    becomes(daemon, "rises", "up")
    server = servers["rises"]
    for what, admin in (("maintenance", "maintenance"), ("enable", "enabled")):
        assert daemon.command(what, "rises", server.address).returncode == 0
        eventually(lambda admin=admin: endpoint(daemon, "rises")["admin"] == admin, admin)
    becomes(daemon, "rises", "up")
    server.status = 500
    before = len(server.heads)
    becomes(daemon, "rises", "down")
    assert len(server.heads) - before >= 2
    server.status = 200
    before = len(server.heads)
    becomes(daemon, "rises", "up")
    assert len(server.heads) - before >= 2


@from_haproxy("checks/1be_40srv_odd_health_checks.vtc", "checks/40be_2srv_odd_health_checks.vtc")
def test_many_servers_of_which_few_are_up(daemon: Daemon) -> None:
    """Of many servers those that fail their checks get no requests."""

    def known() -> bool:
        states = [one["health"] for one in daemon.pool("many")["endpoints"]]
        return states == ["up"] + ["down"] * 19

    eventually(known, "the first checks")
    assert {ask(daemon.port(), "/").name for _ in range(8)} == {"weighed"}
