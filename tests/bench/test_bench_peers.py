"""Each peer does what its configuration is for: real servers, the real program, one client."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from peer_clients import CACHES, GENERAL, HTTP, call, curl, get, say, until
from peer_servers import Running, grpc_server, http_server, running, tcp_server, udp_server

from bench.machine import free_ports
from bench.peers import OURS, PROXIES
from bench.peers.base import CLASS_HEADER, Class, Task
from bench.processes import Processes, require
from lb.wire import grpc_service_pb2 as oip
from lb.wire.services import INFERENCE, Stub


@contextmanager
def h2_server(directory: Path) -> Iterator[int]:
    """nghttpd, which serves one file."""
    (directory / "docs").mkdir()
    (directory / "docs" / "index.html").write_text("from nghttpd")
    (port,) = free_ports(1)
    command = [require("nghttpd", "nghttp2-server"), "--no-tls", "-a", "127.0.0.1", "-d", str(directory / "docs")]
    with Processes(directory) as processes:
        processes.start("nghttpd", [*command, str(port)]).wait_listening(port)
        yield port


@contextmanager
def stub_server(directory: Path) -> Iterator[int]:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "bench.stub_grpc", "--listen", f"127.0.0.1:{port}", "--answer", "64"]
    with Processes(directory) as processes:
        processes.start("stub", command).wait_listening(port)
        yield port


@pytest.mark.parametrize("name", HTTP)
def test_http(name: str, tmp_path: Path) -> None:
    with http_server("A") as server, running(name, Task("oip"), tmp_path, server.port) as proxy:
        assert get(proxy.setup.port, "/x?y=1")[:2] == (200, b"A GET /x?y=1 ")
        big = bytes(range(256)) * 4096
        assert get(proxy.setup.port, "/v2/models/m/infer", big)[:2] == (200, b"A POST /v2/models/m/infer " + big)
        kept = http.client.HTTPConnection("127.0.0.1", proxy.setup.port, timeout=20)
        for number in range(3):
            kept.request("GET", f"/{number}")
            assert kept.getresponse().read() == f"A GET /{number} ".encode()
            assert kept.sock is not None  # the proxy did not close it
        kept.close()


@pytest.mark.parametrize("name", [OURS, *HTTP])
def test_all_tell_the_server_the_same(name: str, tmp_path: Path) -> None:
    with http_server("A") as server, running(name, Task("http"), tmp_path, server.port) as proxy:
        assert get(proxy.setup.port)[0] == 200
        check_told(server.told, proxy)


@pytest.mark.parametrize("name", [OURS, *GENERAL])
def test_all_tell_the_grpc_server_the_same(name: str, tmp_path: Path) -> None:
    with grpc_server("A") as server, running(name, Task("grpc"), tmp_path, server.port) as proxy:
        with grpc.insecure_channel(proxy.address) as channel:
            assert call(channel) == b"A /test/say hello"
        check_told(server.told, proxy)


def check_told(told: dict[str, str], proxy: Running) -> None:
    client = told.pop("x-forwarded-for")
    # Envoy says for a loopback client what this machine is called elsewhere.
    assert client == "127.0.0.1" or (proxy.proxy.name == "envoy" and ipaddress.ip_address(client))
    said = {"proto": "http", "host": proxy.address, "port": str(proxy.setup.port)}
    assert told == {f"x-forwarded-{name}": value for name, value in said.items()}


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize("name", GENERAL)
def test_http2(name: str, tls: bool, tmp_path: Path) -> None:
    with h2_server(tmp_path) as port, running(name, Task("http2", tls=tls), tmp_path, port) as proxy:
        if proxy.setup.certificate is None:
            found = curl("--http2-prior-knowledge", f"http://{proxy.address}/index.html")
        else:
            found = curl("--cacert", str(proxy.setup.certificate.authority), f"https://{proxy.address}/index.html")
        assert found == ["2", "200", "from nghttpd"]


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize("name", GENERAL)
def test_grpc(name: str, tls: bool, tmp_path: Path) -> None:
    with stub_server(tmp_path) as port, running(name, Task("grpc", tls=tls), tmp_path, port) as proxy:
        if proxy.setup.certificate is None:
            channel = grpc.insecure_channel(proxy.address)
        else:
            trusted = grpc.ssl_channel_credentials(proxy.setup.certificate.authority.read_bytes())
            channel = grpc.secure_channel(f"localhost:{proxy.setup.port}", trusted)
        with channel:
            stub = Stub(channel, INFERENCE)
            request = oip.ModelInferRequest(model_name="m", raw_input_contents=[bytes(1 << 20)])
            answer = stub.ModelInfer(request, timeout=20)
            assert [len(content) for content in answer.raw_output_contents] == [64]
            with pytest.raises(grpc.RpcError) as error:  # the status is in the trailers, which have to come through
                channel.unary_unary("/no.Such/Method")(b"", timeout=20)
            assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize("name", GENERAL)
def test_tcp(name: str, tls: bool, tmp_path: Path) -> None:
    with tcp_server("A") as server, running(name, Task("tcp", tls=tls), tmp_path, server.port) as proxy:
        trusted = proxy.setup.certificate
        context = None if trusted is None else ssl.create_default_context(cafile=str(trusted.authority))
        assert say(proxy.setup.port, context) == b"A hello\n"


@pytest.mark.parametrize("name", ["nginx", "envoy"])
def test_udp(name: str, tmp_path: Path) -> None:
    with udp_server("A") as server, running(name, Task("udp"), tmp_path, server.port) as proxy, ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(3)]
        for number, client in enumerate(clients):
            client.settimeout(20)
            client.connect(("127.0.0.1", proxy.setup.port))
            client.send(str(number).encode() * 5000)
        for number, client in enumerate(clients):  # each gets what is its own
            assert client.recv(9000) == b"A " + str(number).encode() * 5000


@pytest.mark.parametrize("name", CACHES)
def test_cache(name: str, tmp_path: Path) -> None:
    with http_server("A") as server, running(name, Task("cache"), tmp_path, server.port) as proxy:

        def ask(path: str, body: bytes) -> tuple[str, bytes]:
            status, answer, headers = get(proxy.setup.port, path, body)
            assert status == 200
            return headers["cache-status"].lower(), answer

        one, two = b"x" * 10_000, b"x" * 9_999 + b"y"
        assert ask("/v2/infer", one) == ("miss", b"A POST /v2/infer " + one)
        assert ask("/v2/infer", one) == ("hit", b"A POST /v2/infer " + one)
        assert ask("/v2/infer", two) == ("miss", b"A POST /v2/infer " + two)
        assert ask("/v2/other", one) == ("miss", b"A POST /v2/other " + one)
        assert ask("/v2/infer", two)[0] == "hit"
        assert server.requests == 3


@pytest.mark.parametrize("name", CACHES)
def test_http_cache(name: str, tmp_path: Path) -> None:
    with http_server("A") as server, running(name, Task("http_cache"), tmp_path, server.port) as proxy:

        def ask(path: str) -> tuple[str, bytes]:
            status, answer, headers = get(proxy.setup.port, path)
            assert status == 200
            return headers["cache-status"].lower(), answer

        said, answer = ask("/a")
        assert ("hit" not in said, answer) == (True, b"A GET /a ")
        said, answer = ask("/a")
        assert ("hit" in said, answer) == (True, b"A GET /a ")
        assert "hit" not in ask("/b")[0]
        assert server.requests == 2


@pytest.mark.parametrize("name", GENERAL)
def test_https(name: str, tmp_path: Path) -> None:
    with http_server("A") as server, running(name, Task("http", tls=True), tmp_path, server.port) as proxy:
        assert proxy.setup.certificate is not None
        url = f"https://localhost:{proxy.setup.port}/x"
        found = curl("--cacert", str(proxy.setup.certificate.authority), url)
        assert found == ["1.1", "200", "A GET /x "]
        refused = subprocess.run(["curl", "-sS", "--tls-max", "1.1", "-k", url], capture_output=True, check=False)
        assert refused.returncode == 35


@pytest.mark.parametrize("name", HTTP)
def test_routes(name: str, tmp_path: Path) -> None:
    routes = 60 if name == "varnish" else 1000
    with http_server("A") as server, running(name, Task("http", routes=routes), tmp_path, server.port) as proxy:
        for path in ("/route-0000/", "/route-0037/x?y", f"/route-{routes - 1:04d}/a/b"):
            assert get(proxy.setup.port, path)[:2] == (200, f"A GET {path} ".encode())
        for path in ("/", "/route-003", f"/route-{routes:04d}/", "/x/route-0037/"):
            assert get(proxy.setup.port, path)[0] == 404, path


@pytest.mark.parametrize("name", HTTP)
def test_round_robin(name: str, tmp_path: Path) -> None:
    with http_server("A") as a, http_server("B") as b, running(name, Task("http"), tmp_path, a.port, b.port) as proxy:
        for _ in range(10):
            assert get(proxy.setup.port)[0] == 200
        assert (a.requests, b.requests) == (5, 5)


@pytest.mark.parametrize("name", GENERAL)
def test_least_request(name: str, tmp_path: Path) -> None:
    task = Task("http", balance="least_request")
    with ExitStack() as stack:
        servers = [stack.enter_context(http_server(server)) for server in "AB"]
        proxy = stack.enter_context(running(name, task, tmp_path, *(server.port for server in servers)))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        held = pool.submit(get, proxy.setup.port, "/hold")
        until(lambda: any(server.held.waiting for server in servers))
        busy, idle = sorted(servers, key=lambda server: -server.held.waiting)
        for _ in range(60):
            assert get(proxy.setup.port)[0] == 200
        # Envoy draws two, which may be the same one twice: a quarter goes to the busy one.
        assert idle.requests > 30 if name == "envoy" else idle.requests == 60
        busy.held.release()
        assert held.result()[0] == 200


@pytest.mark.parametrize("job", ["http", "grpc"])
@pytest.mark.parametrize("name", HTTP)
def test_endpoint_limit(name: str, job: str, tmp_path: Path) -> None:
    if (name, job) == ("varnish", "grpc"):
        return  # it cannot
    task = Task(job, endpoint_limit=2, queue_timeout=15)  # type: ignore[arg-type]
    with ExitStack() as stack:
        server = stack.enter_context(http_server("A") if job == "http" else grpc_server("A"))
        proxy = stack.enter_context(running(name, task, tmp_path, server.port))
        pool = stack.enter_context(ThreadPoolExecutor(4))
        stack.callback(server.held.release)
        ask = asker(proxy, job, stack)
        before = server.requests
        waiting = [pool.submit(ask) for _ in range(2)]
        server.held.wait_for(2)
        third = pool.submit(ask)
        if name == "nginx":
            assert not third.result()  # it has no queue
        else:
            until(lambda: third.running())
            with pytest.raises(TimeoutError):
                third.result(timeout=0.3)
        assert server.requests == before + 2
        server.held.release()
        assert all(each.result() for each in waiting)
        assert name == "nginx" or third.result()


@pytest.mark.parametrize("name", ["haproxy", OURS])
def test_classes(name: str, tmp_path: Path) -> None:
    """Of those that wait the one of high priority goes first, although it came last."""
    classes = (Class("interactive", 20, "high"), Class("batch", 20, "low"))
    task = Task("http", endpoint_limit=1, queue_timeout=15, classes=classes)
    with ExitStack() as stack:
        server = stack.enter_context(http_server("A"))
        proxy = stack.enter_context(running(name, task, tmp_path, server.port))
        pool = stack.enter_context(ThreadPoolExecutor(3))
        stack.callback(server.held.release)
        before = len(server.paths)

        def ask(path: str, kind: str) -> int:
            return get(proxy.setup.port, path, fields={CLASS_HEADER: kind})[0]

        asked = [pool.submit(ask, "/hold", "batch")]
        server.held.wait_for(1)
        for path, kind in (("/second", "batch"), ("/third", "interactive")):
            asked.append(pool.submit(ask, path, kind))
            time.sleep(0.5)  # until it waits
        assert len(server.paths) == before + 1
        server.held.release()
        assert [each.result() for each in asked] == [200] * 3
        assert server.paths[before:] == ["/hold", "/third", "/second"]


def asker(proxy: Running, job: str, stack: ExitStack) -> Callable[[], bool]:
    """A function that makes one request which the server holds, and says whether it was answered well."""
    if job == "http":
        return lambda: get(proxy.setup.port, "/hold")[0] == 200
    channel = stack.enter_context(grpc.insecure_channel(proxy.address))

    def ask() -> bool:
        try:
            return call(channel, "/test/hold").startswith(b"A ")
        except grpc.RpcError as error:
            return error.code() is not grpc.StatusCode.UNAVAILABLE

    return ask


@pytest.mark.parametrize("name", ["haproxy", "varnish"])
def test_queue_timeout(name: str, tmp_path: Path) -> None:
    task = Task("http", endpoint_limit=1, queue_timeout=0.5)
    with http_server("A") as server, running(name, task, tmp_path, server.port) as proxy, ThreadPoolExecutor(1) as pool:
        first = pool.submit(get, proxy.setup.port, "/hold")
        server.held.wait_for(1)
        began = time.monotonic()
        assert get(proxy.setup.port)[0] == 503
        assert 0.4 < time.monotonic() - began < 10
        server.held.release()
        assert first.result()[0] == 200


@pytest.mark.parametrize("job", ["http", "http2", "grpc", "tcp"])
@pytest.mark.parametrize("name", HTTP)
def test_checks_take_out_a_dead_server_only(name: str, job: str, tmp_path: Path) -> None:
    if name == "varnish" and job != "http":
        return  # it cannot
    (dead,) = free_ports(1)
    with ExitStack() as stack:
        if job == "http2":
            port = stack.enter_context(h2_server(tmp_path))
        elif job == "grpc":
            port = stack.enter_context(stub_server(tmp_path))
        else:
            port = stack.enter_context(http_server("A")).port
        task = Task(job, checks=True)  # type: ignore[arg-type]
        proxy = stack.enter_context(running(name, task, tmp_path, dead, port))

        def well() -> bool:
            if job == "http2":
                url = f"http://{proxy.address}/index.html"
                return curl("--http2-prior-knowledge", url)[1] == "200"
            if job == "grpc":
                with grpc.insecure_channel(proxy.address) as channel:
                    stub = Stub(channel, INFERENCE)
                    try:
                        return bool(stub.ServerReady(oip.ServerReadyRequest(), timeout=20).ready)
                    except grpc.RpcError:
                        return False
            try:
                return get(proxy.setup.port)[0] == 200
            except (ConnectionError, http.client.HTTPException):
                return False

        # While both are in, every second one goes to the dead server.
        until(lambda: all(well() for _ in range(8)))


@pytest.mark.parametrize("name", [*GENERAL, "varnish"])
def test_what_is_not_installed_has_no_version(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.processes.shutil.which", lambda *_, **__: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert PROXIES[name].version() is None
