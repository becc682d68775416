"""curl, httpx, wrk and h2load, which are not ours, through the real daemon to nginx and HAProxy, which are neither."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from daemon import eventually
from real_servers import BLOB, DIGEST, UPSTREAMS, Site, real_site
from traffic import wrk

from bench.generator import Target
from bench.h2load import H2load
from bench.load.request import Request

UPLOAD = BLOB[: 5 << 20]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with real_site(tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.fixture
def site(shared: Site, request: pytest.FixtureRequest) -> Iterator[Site]:
    """The daemon that these tests share; each has to leave it with nothing in flight."""
    request.node.daemons = [shared.daemon]
    yield shared
    eventually(lambda: shared.daemon.in_flight() == 0, "the end of all exchanges", 10)


# curl


@dataclass(frozen=True)
class Curl:
    """How curl connects, and the version that it then has to report."""

    options: tuple[str, ...]
    version: str
    tls: bool = False

    def url(self, site: Site, path: str) -> str:
        return f"https://example.org:{site.tls}{path}" if self.tls else f"http://example.org:{site.web}{path}"

    def run(
        self, site: Site, path: str, *options: str, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """A transfer that has to succeed, over the version of HTTP that is meant."""
        port = site.tls if self.tls else site.web
        command = ["curl", "-sS", "--fail", "--noproxy", "*", "--max-time", "30", "--cacert", str(site.authority)]
        command += ["--resolve", f"example.org:{port}:127.0.0.1", *self.options, *options]
        done = subprocess.run(
            [*command, self.url(site, path)], input=stdin, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return done


CURLS = {
    "http1": Curl(("--http1.1",), "1.1"),
    "h2": Curl(("--http2",), "2", tls=True),
    "h2c": Curl(("--http2-prior-knowledge",), "2"),
}


@pytest.fixture(params=CURLS)
def curl(request: pytest.FixtureRequest) -> Curl:
    return CURLS[request.param]


@pytest.fixture(params=UPSTREAMS)
def upstream(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_curl_gets(site: Site, curl: Curl, upstream: str) -> None:
    report = "%{stderr}%{http_version} %{http_code} %header{x-spoken}"
    done = curl.run(site, f"/{upstream}/files/small1", "-w", report)
    assert done.stdout == b"number 1\n"
    assert done.stderr.decode() == f"{curl.version} 200 {UPSTREAMS[upstream][1]}"


def test_curl_asks_for_the_head(site: Site, curl: Curl, upstream: str) -> None:
    done = curl.run(site, f"/{upstream}/files/blob", "--head")
    status, *lines = done.stdout.decode().lower().split("\r\n")
    assert status.split()[:2] == [f"http/{curl.version}", "200"]
    assert f"content-length: {len(BLOB)}" in lines
    assert lines[-2:] == ["", ""]  # no body


def test_curl_downloads(site: Site, curl: Curl, upstream: str, tmp_path: Path) -> None:
    curl.run(site, f"/{upstream}/files/blob", "-o", str(tmp_path / "got"))
    assert hashlib.sha256((tmp_path / "got").read_bytes()).hexdigest() == DIGEST
    part = curl.run(site, f"/{upstream}/files/blob", "-r", "1000-1999", "-w", "%{stderr}%{http_code}")
    assert (part.stdout, part.stderr) == (BLOB[1000:2000], b"206")


def test_curl_uploads_when_told_to_continue(site: Site, curl: Curl, upstream: str, tmp_path: Path) -> None:
    """curl waits for 100 for so long that its own patience would be seen."""
    (tmp_path / "body").write_bytes(UPLOAD)
    name = f"expected-{curl.version}-{curl.tls}-{upstream}"
    done = curl.run(
        site, f"/{upstream}/files/{name}", "-T", str(tmp_path / "body"), "-H", "Expect: 100-continue",
        "--expect100-timeout", "25", "-v", "-w", "%{http_code} %{time_total}",
    )  # fmt: skip
    code, seconds = done.stdout.decode().split()
    assert code in ("201", "204")
    assert f"< HTTP/{curl.version} 100" in done.stderr.decode()
    assert float(seconds) < 20
    assert (site.files / name).read_bytes() == UPLOAD


def test_curl_uploads_what_has_no_length(site: Site, curl: Curl, upstream: str) -> None:
    name = f"chunked-{curl.version}-{curl.tls}-{upstream}"
    options = ("-T", "-", "-H", "Expect:", "-v", "-w", "%{http_code}")
    done = curl.run(site, f"/{upstream}/files/{name}", *options, stdin=UPLOAD)
    sent = [line.lower() for line in done.stderr.decode().splitlines() if line.startswith(">")]
    assert not any("content-length" in line for line in sent)
    assert any("transfer-encoding: chunked" in line for line in sent) == (curl.version == "1.1")
    assert done.stdout in (b"201", b"204")
    assert (site.files / name).read_bytes() == UPLOAD


def test_curl_keeps_its_connection(site: Site, curl: Curl, upstream: str) -> None:
    more = [curl.url(site, f"/{upstream}/files/small{i}") for i in range(4)]
    done = curl.run(site, f"/{upstream}/files/small4", *more, "-w", "%{stderr}%{num_connects} %{http_version} ")
    assert done.stdout.decode() == "".join(f"number {i}\n" for i in range(5))
    assert done.stderr.decode().split() == ["1", curl.version] + ["0", curl.version] * 4


def test_curl_in_parallel(site: Site, curl: Curl, upstream: str) -> None:
    """Many transfers at once: over HTTP/2 streams of one connection."""
    url = curl.url(site, f"/{upstream}/files/small[0-4]?n=[1-8]")
    done = curl.run(site, f"/{upstream}/ok", url, "--parallel", "-w", "%{stderr}%{http_code} ")
    assert sorted(done.stderr.decode().split()) == ["200"] * 41
    assert [done.stdout.count(b"number %d\n" % i) for i in range(5)] == [8] * 5


# httpx


def httpx_client(site: Site, version: str) -> httpx.AsyncClient:
    secure = version == "HTTP/2"
    return httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{site.tls}" if secure else f"http://127.0.0.1:{site.web}",
        verify=ssl.create_default_context(cafile=str(site.authority)),
        http1=not secure,
        http2=secure,
        timeout=30,
        trust_env=False,
        limits=httpx.Limits(max_connections=4),
    )


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
async def test_httpx_streams_both_ways(site: Site, upstream: str, version: str) -> None:
    name = f"httpx-{version[5]}-{upstream}"

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(UPLOAD), 70_000):
            yield UPLOAD[at : at + 70_000]

    async with httpx_client(site, version) as client:
        put = await client.put(f"/{upstream}/files/{name}", content=pieces())
        assert put.status_code in (201, 204)
        assert (put.http_version, put.headers["x-spoken"]) == (version, UPSTREAMS[upstream][1])
        assert (site.files / name).read_bytes() == UPLOAD
        digest = hashlib.sha256()
        async with client.stream("GET", f"/{upstream}/files/blob") as answer:
            assert answer.status_code == 200
            async for piece in answer.aiter_bytes():
                digest.update(piece)
        assert digest.hexdigest() == DIGEST
        # One that is given up in the middle leaves nothing behind: the fixture looks.
        async with client.stream("GET", f"/{upstream}/files/blob") as answer:
            async for _ in answer.aiter_raw(1000):
                break
        assert (await client.get(f"/{upstream}/files/small2")).text == "number 2\n"


@pytest.mark.parametrize(("version", "most"), [("HTTP/1.1", 4), ("HTTP/2", 1)])
async def test_httpx_uses_its_pool(site: Site, upstream: str, version: str, most: int) -> None:
    async def one(i: int) -> tuple[str, int]:
        async with client.stream("GET", f"/{upstream}/files/small{i % 5}") as answer:
            own = answer.extensions["network_stream"].get_extra_info("client_addr")[1]
            assert (await answer.aread()).decode() == f"number {i % 5}\n"
            return answer.http_version, own

    async with httpx_client(site, version) as client:
        first = await one(0)
        seen = [first, *await asyncio.gather(*(one(i) for i in range(60)))]
    assert {spoken for spoken, _ in seen} == {version}
    assert 1 <= len({own for _, own in seen}) <= most


# Load, and a reload in the middle of it


def answered(site: Site, upstream: str) -> float:
    return sum(site.daemon.requests_by_endpoint(upstream).values())


def reload_twice(site: Site, upstream: str) -> None:
    """Two reloads while answers come, before, between and after."""
    for _ in range(2):
        before = answered(site, upstream)
        eventually(lambda before=before: answered(site, upstream) > before + 200, "answers")
        assert site.daemon.reload(site.config)["ok"]
    before = answered(site, upstream)
    eventually(lambda: answered(site, upstream) > before + 200, "answers after the reload")


def test_wrk_through_a_reload(site: Site, upstream: str, tmp_path: Path) -> None:
    with wrk(tmp_path, site.web, f"/{upstream}/ok", [{"a": 1}, {"b": "x" * 500}], seconds=2) as running:
        reload_twice(site, upstream)
        assert running.process.poll() is None, "the load ended before the reload"
        requests, failures = running.finish()
    assert failures == {}
    assert requests > 600


@pytest.mark.parametrize("secure", [False, True], ids=["h2c", "tls"])
def test_h2load_through_a_reload(site: Site, upstream: str, secure: bool, tmp_path: Path) -> None:
    tool = H2load(Request(path=f"/{upstream}/ok"), connections=4, streams=8)
    target = Target(site.tls if secure else site.web, 1, tmp_path, site.authority if secure else None)
    process = subprocess.Popen(tool.command(target, 1.5), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        reload_twice(site, upstream)
        assert process.poll() is None, "the load ended before the reload"
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    counted = tool.parse(output)
    assert counted.errors == {}, output
    assert counted.operations > 600
    assert counted.raw["h2load"]["protocol"][-1] == f"Application protocol: {'h2' if secure else 'h2c'}"
