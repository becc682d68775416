"""A reload of a peer: who sees it, when, and what a refused one leaves."""

from __future__ import annotations

import http.client
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from peer_clients import CACHES, GENERAL, HTTP, call, get, say, until
from peer_servers import grpc_server, http_server, running, tcp_server

from bench.errors import BenchError
from bench.peers.base import Task


@pytest.mark.parametrize("name", HTTP)
def test_reload_is_seen_by_a_client_that_stays(name: str, tmp_path: Path) -> None:
    with http_server("A") as a, http_server("B") as b, running(name, Task("http"), tmp_path, a.port) as proxy:
        kept = http.client.HTTPConnection("127.0.0.1", proxy.setup.port, timeout=20)

        def ask() -> bytes:
            try:
                kept.request("GET", "/")
                return kept.getresponse().read()[:1]
            except (http.client.RemoteDisconnected, ConnectionError):  # closed while idle, as HTTP allows
                kept.close()
                return b""

        assert ask() == b"A"
        for server, answer in ((b, b"B"), (a, b"A"), (b, b"B")):
            proxy.reload(server_ports=(server.port,))
            assert get(proxy.setup.port)[1][:1] == answer  # a new connection sees it at once
            answers = [ask() for _ in range(3)]
            assert answers[-1] == answer, answers
        kept.close()


@pytest.mark.parametrize("name", HTTP)
def test_no_request_is_lost_by_a_reload(name: str, tmp_path: Path) -> None:
    with http_server("A") as a, http_server("B") as b, running(name, Task("http"), tmp_path, a.port) as proxy:
        stop = threading.Event()
        found: list[tuple[int, bytes]] = []

        def load() -> None:
            while not stop.is_set():
                found.append(get(proxy.setup.port)[:2])

        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(load)
            try:
                until(lambda: len(found) > 5)
                proxy.reload(server_ports=(b.port,))
                count = len(found)
                until(lambda: len(found) > count + 5 or loading.done())
            finally:
                stop.set()
            loading.result()
        assert {status for status, _ in found} == {200}
        assert found[-1][1] == b"B GET / "


@pytest.mark.parametrize("name", GENERAL)
def test_reload_of_grpc_and_tcp(name: str, tmp_path: Path) -> None:
    with grpc_server("A") as a, grpc_server("B") as b, running(name, Task("grpc"), tmp_path, a.port) as proxy:
        with grpc.insecure_channel(proxy.address) as channel:
            assert call(channel) == b"A /test/say hello"
        proxy.reload(server_ports=(b.port,))
        with grpc.insecure_channel(proxy.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            assert call(channel) == b"B /test/say hello"
    other = tmp_path / "tcp"
    other.mkdir()
    with tcp_server("A") as a, tcp_server("B") as b, running(name, Task("tcp"), other, a.port) as proxy:
        assert say(proxy.setup.port) == b"A hello\n"
        proxy.reload(server_ports=(b.port,))
        assert say(proxy.setup.port) == b"B hello\n"


@pytest.mark.parametrize("name", CACHES)
def test_the_cache_survives_a_reload(name: str, tmp_path: Path) -> None:
    with http_server("A") as a, http_server("B") as b, running(name, Task("cache"), tmp_path, a.port) as proxy:
        assert get(proxy.setup.port, "/x", b"1")[1] == b"A POST /x 1"
        proxy.reload(server_ports=(b.port,))
        assert get(proxy.setup.port, "/x", b"1")[1] == b"A POST /x 1"
        assert get(proxy.setup.port, "/x", b"2")[1] == b"B POST /x 2"


@pytest.mark.parametrize("name", HTTP)
def test_reload_to_other_routes(name: str, tmp_path: Path) -> None:
    with http_server("A") as server, running(name, Task("http", routes=3), tmp_path, server.port) as proxy:
        assert get(proxy.setup.port, "/route-0003/")[0] == 404
        proxy.reload(task=Task("http", routes=5))
        assert get(proxy.setup.port, "/route-0003/")[0] == 200
        assert get(proxy.setup.port, "/route-0005/")[0] == 404


@pytest.mark.parametrize("name", ["haproxy", "nginx", "varnish"])
def test_a_refused_reload_is_an_error_and_changes_nothing(name: str, tmp_path: Path) -> None:
    with http_server("A") as server, running(name, Task("http"), tmp_path, server.port) as proxy:
        main = next(iter(proxy.proxy.files(proxy.setup)))
        path = proxy.setup.directory / main
        path.write_text(path.read_text() + "\nnonsense here {\n")
        with pytest.raises(BenchError, match=f"^{name} refused"):
            proxy.proxy.reload(proxy.setup, proxy.process)
        assert get(proxy.setup.port)[:2] == (200, b"A GET / ")


def test_envoy_keeps_what_it_has_if_it_refuses_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.peers.envoy._RELOAD_SECONDS", 0.5)
    with http_server("A") as server, running("envoy", Task("http"), tmp_path, server.port) as proxy:
        monkeypatch.setattr("bench.peers.envoy_cluster._NO_LIMIT", -1)
        with pytest.raises(BenchError, match=r"^envoy refused cds\.yaml: .*-1"):
            proxy.reload()
        assert get(proxy.setup.port)[:2] == (200, b"A GET / ")
