"""Limits by client and key, and who may connect."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from daemon import Daemon, eventually
from peer_site import Echo, Speaker, ask
from scenarios import from_haproxy, from_nginx


def echo(connection: socket.socket) -> None:
    while data := connection.recv(4096):
        connection.sendall(data)


@pytest.fixture(scope="module")
def daemon(run: Callable[..., Daemon]) -> Daemon:
    app, speaker, two = Echo("app"), Speaker(talk=echo), Speaker(b"two")
    counted = "${query.key}"
    web: dict[str, Any] = {
        "bind": ["127.0.0.1:0", "[::1]:0"],
        "protocol": "http",
        "routes": [
            {
                "match": {"path": {"prefix": "/delay"}},
                "respond": {"body": "ok"},
                "rate_limit": {"rate": "2/s", "burst": 3, "delay_after": 1, "key": {"query": "key"}},
            },
            {
                "match": {"path": {"prefix": "/held"}},
                "pool": "app",
                "track": "held",
                "table_rules": [{"when": {"held": {"concurrent": {"above": 1}}}, "deny": 503}],
            },
            {
                "match": {"path": {"prefix": "/rated"}},
                "respond": {"body": "${table.rated.request_rate} ${table.rated.gpt0}"},
                "track": "rated",
                "table_rules": [
                    {"when": {"rated": {"request_rate": {"above": 4}}}, "set_gpt0": {"rated": 7}, "deny": 429}
                ],
            },
            {"pool": "app"},
        ],
    }
    tcp = {"bind": ["127.0.0.1:0", "[::1]:0"], "protocol": "tcp"}
    return run(
        {
            "tables": {
                "held": {"key": counted, "store": ["concurrent"]},
                "rated": {"key": counted, "store": ["request_rate(60s)", "gpt0"]},
            },
            "listeners": {
                "web": web,
                "all": {**tcp, "pool": "echo"},
                "nobody": {**tcp, "pool": "echo", "deny": ["0.0.0.0/0", "::/0"]},
                "no-ipv4": {**tcp, "pool": "echo", "deny": ["127.0.0.1"]},
                "only-ipv4": {**tcp, "pool": "echo", "allow": ["127.0.0.1"]},
                "one": {**tcp, "pool": "echo", "max_connections_per_source": 1},
                "rate": {**tcp, "pool": "echo", "connection_rate_per_source": {"rate": "1/m", "burst": 3}},
                "split": {**tcp, "pools": [{"pool": "echo", "weight": 60}, {"pool": "two", "weight": 40}]},
            },
            "pools": {
                "app": {"protocol": "http", "endpoints": [app.address]},
                "echo": {"protocol": "tcp", "endpoints": [speaker.address]},
                "two": {"protocol": "tcp", "endpoints": [two.address]},
            },
        }
    )


def said(daemon: Daemon, listener: str, host: str = "127.0.0.1") -> str:
    """What a connection gets for `hello`; "" where it is closed."""
    (row,) = (row for row in daemon.status()["listeners"] if row["name"] == listener)
    addresses = [each["address"] for each in row["addresses"]]
    port = next(int(a.rpartition(":")[2]) for a in addresses if a.startswith("[") == (":" in host))
    try:
        with socket.create_connection((host, port), timeout=20) as client:
            client.sendall(b"hello")
            return client.recv(100).decode()
    except ConnectionResetError:
        return ""


@from_nginx(
    "limit_req_delay.t", differs="The answer is 429, with `Retry-After`; `burst` counts the first request, too."
)
def test_requests_behind_some_of_the_burst_wait(daemon: Daemon) -> None:
    """The first requests of a burst pass at once, the next has to wait for its turn, and those beyond are refused."""

    def timed(_: int) -> tuple[int, float]:
        started = time.monotonic()
        return ask(daemon.port(), "/delay?key=a").status, time.monotonic() - started

    assert ask(daemon.port(), "/delay?key=a").status == 200
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(timed, range(8)))
    assert {status for status, _ in found} == {200, 429}
    waited = [seconds for status, seconds in found if status == 200]
    assert 1 <= len(waited) <= 4
    assert max(waited) > 0.2  # half a second for each token


@from_nginx("limit_conn.t", differs="Any text of the request is a key, and one request is counted in several tables.")
def test_requests_under_way_are_limited_by_key(daemon: Daemon) -> None:
    """While a request of a key is under way the next of that key is refused, one of another passes; once it is over
    the key has room again."""
    with socket.create_connection(("127.0.0.1", daemon.port()), timeout=20) as slow:
        slow.sendall(b"POST /held?key=a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
        eventually(lambda: ask(daemon.port(), "/held?key=a").status == 503, "the refusal")
        assert ask(daemon.port(), "/held?key=b").status == 200
        assert ask(daemon.port(), "/other?key=a").status == 200
        slow.sendall(b"cd")
        assert slow.recv(100).startswith(b"HTTP/1.1 200")
    eventually(lambda: ask(daemon.port(), "/held?key=a").status == 200, "room for the key")


@from_haproxy("stick-table/src_conn_rate.vtc", "stick-table/unknown_key.vtc")
def test_a_rate_by_key_denies_and_marks(daemon: Daemon) -> None:
    """Requests count by key; what an unknown key has is 0, and one over the rate is denied and marked."""
    answers = [ask(daemon.port(), "/rated?key=a") for _ in range(6)]
    assert [answer.status for answer in answers] == [200, 200, 200, 200, 429, 429]
    assert [answer.body for answer in answers[:4]] == ["1 0", "2 0", "3 0", "4 0"]
    assert ask(daemon.port(), "/rated?key=new").body == "1 0"
    assert ask(daemon.port(), "/rated").body == "0 0"  # without a key nothing is counted


@from_nginx("stream_access.t", differs="The most exact network decides, not the first in the file.")
def test_lists_say_who_may_connect(daemon: Daemon) -> None:
    """A connection is relayed or closed by the client's network, for each family."""
    both = {name: (said(daemon, name), said(daemon, name, "::1")) for name in ("all", "nobody", "no-ipv4", "only-ipv4")}
    assert both == {
        "all": ("hello", "hello"),
        "nobody": ("", ""),
        "no-ipv4": ("", "hello"),
        "only-ipv4": ("hello", ""),
    }


@from_nginx("stream_limit_conn.t")
def test_a_client_has_so_many_connections(daemon: Daemon) -> None:
    """While a client has its connection the next one is closed; at another listener it passes."""
    with socket.create_connection(("127.0.0.1", daemon.port("one")), timeout=20) as held:
        held.sendall(b"x")
        assert held.recv(1) == b"x"
        assert said(daemon, "one") == ""
        assert said(daemon, "all") == "hello"
    eventually(lambda: said(daemon, "one") == "hello", "room for the client")


@from_haproxy("stick-table/src_conn_rate.vtc")
def test_a_client_connects_so_often(daemon: Daemon) -> None:
    """Connections beyond the rate of their source are closed."""
    assert [said(daemon, "rate") for _ in range(5)] == ["hello"] * 3 + [""] * 2


@from_nginx("stream_split_clients.t", differs="Shares are weights of pools; without `sticky` they are drawn at random.")
def test_connections_are_shared_by_weight(daemon: Daemon) -> None:
    """Connections go to the pools in proportion to their weights."""
    found = Counter(said(daemon, "split") for _ in range(200))
    assert set(found) == {"hello", "two"}
    assert 85 <= found["hello"] <= 155  # five standard deviations
