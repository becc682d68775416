"""HTTP caching in the real daemon: all workers share the answers, which outlive a worker and a reload."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
from daemon import Daemon, http_listener, route
from waiting import eventually

Start = Callable[..., Daemon]


class Dated:
    """Answers that are good for ten minutes, each with a number of its own."""

    def __init__(self) -> None:
        self.served = 0
        self.validated = 0

    async def start(self) -> str:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.served += 1
                body = b"%d " % self.served * 1000
                writer.write(
                    b'HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nCache-Tag: page\r\nETag: "%d"\r\n'
                    b"Content-Length: %d\r\n\r\n%s" % (self.served, len(body), body)
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


class Sized(Dated):
    """Answers of as many bytes as the path says, whose content follows from the path; with a tag."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                target = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
                self.served += 1
                body = content(target.decode())
                writer.write(
                    b"HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nCache-Tag: all\r\nVary: X-Kind\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def content(target: str) -> bytes:
    """Of /SIZE/NUMBER."""
    size = int(target.split("/")[1])
    return (hashlib.sha256(target.encode()).hexdigest().encode() * (size // 64 + 1))[:size]


async def given(daemon: Daemon, targets: Iterable[str]) -> list[str]:
    """What Cache-Status says of each, until `ttl`. The content is checked."""
    said = []
    async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
        for target in targets:
            got = await client.get(f"http://127.0.0.1:{daemon.port()}{target}", headers={"Host": "example.org"})
            assert got.content == content(target)
            said.append(got.headers["Cache-Status"].removeprefix("tidegate; ").partition("; ttl")[0])
    return said


def on_disk(address: str, path: Path, **disk: Any) -> dict[str, Any]:
    plan = config(address)
    plan["cache"] = {"size": "2MiB", "disk": {"path": str(path), "max_size": "64MiB", **disk}}
    return plan


def counted(daemon: Daemon, name: str) -> int:
    (count,) = daemon.metrics(f"tidegate_cache_disk_{name}").values()
    return int(count)


def config(address: str, **rules: Any) -> dict[str, Any]:
    return {
        "workers": 2,
        "cache": {"size": "16MiB"},
        "listeners": {"web": http_listener({"pool": "pages", "http_cache": rules})},
        "pools": {"pages": {"protocol": "http", "endpoints": [address]}},
    }


async def test_workers_share_answers_that_outlive_them(start: Start) -> None:
    origin = Dated()
    address = await origin.start()
    daemon = start(config(address))
    url = f"http://127.0.0.1:{daemon.port()}/page"

    async def bodies(count: int) -> set[bytes]:
        """Each over a connection of its own, so that both workers get some."""
        found = set()
        for _ in range(count):
            async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
                found.add((await client.get(url)).content)
        return found

    assert await bodies(20) == {b"1 " * 1000}
    pids = daemon.worker_pids()
    os.kill(pids[0], signal.SIGKILL)
    await asyncio.to_thread(
        eventually, lambda: len(set(daemon.worker_pids()) - set(pids[:1])) == 2, "a worker in its place"
    )
    assert await bodies(20) == {b"1 " * 1000}
    assert daemon.reload(config(address, stale_if_error="1m"))["ok"]
    assert await bodies(20) == {b"1 " * 1000}
    assert origin.served == 1
    told = await asyncio.to_thread(
        subprocess.run, ["curl", "-s", "-D", "-", "-o", "/dev/null", "-H", 'If-None-Match: "1"', url],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.startswith("HTTP/1.1 304")
    assert "Cache-Status: tidegate; hit; ttl=" in told.stdout
    found = daemon.metrics("tidegate_cache_requests_total")
    by_result = {dict(labels)["result"]: count for labels, count in found.items()}
    assert by_result["hit"] == 60
    assert by_result["miss"] == 1
    origin.server.close()


async def test_urls_are_purged(start: Start) -> None:
    origin = Dated()
    plan = config(await origin.start())
    plain = {**route("/plain", "pages"), "name": "plain", "http_cache": {"key": {"query": False}}}
    moved = {**route("/old", "pages", rewrite={"prefix": "/new"}), "name": "moved", "http_cache": True}
    plan["listeners"]["web"] = http_listener(plain, moved, {"pool": "pages", "http_cache": True})
    daemon = start(plan)
    base = f"http://127.0.0.1:{daemon.port()}"
    urls = [f"{base}{target}" for target in ("/a", "/a?b", "/plain?x", "/old/1", "/\u00fc")]

    async def taken(*arguments: str) -> list[str]:
        """Which of the URLs a purge takes."""
        async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
            for url in urls * 2:
                got = await client.get(url)
            assert got.headers["Cache-Status"].startswith("tidegate; hit")
            done = await asyncio.to_thread(daemon.command, "cache", "purge", *arguments)
            assert done.returncode == 0, done.stderr
            missed = [url for url in urls if "hit" not in (await client.get(url)).headers["Cache-Status"]]
            return [url.removeprefix(base) for url in missed]

    for url in urls:
        assert await taken("--url", url) == [url.removeprefix(base)]
    assert await taken("--url", f"{base}/plain?y".replace("http", "https")) == ["/plain?x"]
    assert await taken("--url", f"{base}/new/1") == ["/old/1"]
    assert await taken("--url", f"{base}/a#c") == ["/a"]
    assert await taken("--url", "http://example.org/a") == []
    assert len(await taken("--pool", "pages")) == len(urls)
    assert len(await taken("--all")) == len(urls)
    for wrong in ("/a", "ftp://127.0.0.1/a", "http:///a", "http://me@127.0.0.1/a", "http://[/"):
        done = await asyncio.to_thread(daemon.command, "cache", "purge", "--url", wrong)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "url: " in done.stderr
    origin.server.close()


async def test_the_disk_has_what_memory_has_not_also_after_restarts(start: Start, tmp_path: Path) -> None:
    origin = Sized()
    plan = on_disk(await origin.start(), tmp_path / "disk")
    small = [f"/20000/{number}" for number in range(300)]  # three times the memory
    large = "/2000000/0"  # more than memory takes
    daemon = start(plan)
    first = await given(daemon, [*small, large])
    assert set(first) == {"fwd=uri-miss; fwd-status=200; stored"}
    await asyncio.to_thread(eventually, lambda: counted(daemon, "stored_total") == 602, "all is written with notes", 20)
    again = await given(daemon, [*small, large])
    assert set(again) == {"hit", "hit; detail=disk"}
    assert again[-1] == "hit; detail=disk"
    assert origin.served == 301
    shown = await asyncio.to_thread(daemon.command, "cache", "stats")
    assert re.search(r"^disk +[0-9.]+ MiB, [0-9]+ hits, 602 stored, 0 evicted$", shown.stdout, re.MULTILINE), (
        shown.stdout
    )
    used = counted(daemon, "bytes")
    assert 300 * 20_000 < used <= 64 << 20

    # As after a crash: nothing is torn, and nothing is lost that was written.
    daemon.kill()
    daemon = start(plan)
    await asyncio.to_thread(eventually, lambda: counted(daemon, "bytes") == used, "the workers know what is there")
    assert await given(daemon, small[:3]) == ["hit; detail=disk"] * 3
    assert await given(daemon, small[:3]) == ["hit"] * 3  # it is in memory, too
    assert set(await given(daemon, [*small[3:], large])) == {"hit; detail=disk"}
    assert origin.served == 301

    # Purges hold for what is on disk, now and after a restart.
    done = await asyncio.to_thread(daemon.command, "cache", "purge", "--url", f"http://example.org{small[0]}")
    assert done.returncode == 0, done.stderr
    daemon.stop()
    daemon = start(plan)
    await asyncio.to_thread(eventually, lambda: counted(daemon, "bytes") == used, "the workers know what is there")
    assert (await given(daemon, small[:2])) == ["fwd=vary-miss; fwd-status=200; stored", "hit; detail=disk"]
    done = await asyncio.to_thread(daemon.command, "cache", "purge", "--tag", "all")
    assert done.returncode == 0, done.stderr
    daemon.kill()
    daemon = start(plan)
    assert {said.partition(";")[0] for said in await given(daemon, [*small[:9], large])} == {"fwd=vary-miss"}
    origin.server.close()


async def test_a_crash_while_answers_are_written_leaves_nothing_torn(start: Start, tmp_path: Path) -> None:
    origin = Sized()
    plan = on_disk(await origin.start(), tmp_path / "disk")
    targets = [f"/200000/{number}" for number in range(60)]
    found = 0
    for _ in range(3):
        daemon = start(plan)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ignoring_the_end(daemon, targets))
            await asyncio.to_thread(eventually, lambda at=daemon: counted(at, "stored_total") > 10, "some are written")
            await asyncio.to_thread(daemon.kill)
        daemon = start(plan)
        await asyncio.to_thread(eventually, lambda at=daemon: counted(at, "bytes") > 0, "a worker knows what is there")
        found += "hit; detail=disk" in await given(daemon, targets)  # which compares the content
        assert counted(daemon, "damaged_total") == 0
        daemon.kill()
        shutil.rmtree(tmp_path / "disk")
    assert found == 3
    origin.server.close()


async def ignoring_the_end(daemon: Daemon, targets: Iterable[str]) -> None:
    with contextlib.suppress(httpx.HTTPError, OSError):
        await given(daemon, targets)


class Validated(Dated):
    """Answers that are good for one second, and can be validated."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.served += 1
                known = b'if-none-match: "one"' in head.lower()
                self.validated += known
                status, body = (b"304 Not Modified", b"") if known else (b"200 OK", b"0123456789")
                length = b"" if known else b"Content-Length: 10\r\n"
                life = b"1" if b"/short" in head else b"600"
                writer.write(
                    b'HTTP/1.1 %s\r\nCache-Control: max-age=%s\r\nETag: "one"\r\n%s\r\n%s'
                    % (status, life, length, body)
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def test_what_is_on_disk_is_given_as_what_is_in_memory(start: Start, tmp_path: Path) -> None:
    origin = Validated()
    plan = on_disk(await origin.start(), tmp_path / "disk")
    plan["workers"] = 1
    daemon = start(plan)

    async def told(target: str, *options: str) -> tuple[str, str, str]:
        """Status, Cache-Status without the time left, and body."""
        url = f"http://127.0.0.1:{daemon.port()}{target}"
        done = await asyncio.to_thread(
            subprocess.run, ["curl", "-si", "-m", "20", "-H", "Host: example.org", *options, url],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        head, _, body = done.stdout.partition("\n\n")
        (said,) = [line for line in head.splitlines() if line.lower().startswith("cache-status")]
        return head.split()[1], said.partition("tidegate; ")[2].partition("; ttl")[0], body

    targets = ["/short", *(f"/{number}" for number in range(6))]
    for target in targets:
        assert (await told(target))[1].endswith("stored")
    await asyncio.to_thread(eventually, lambda: counted(daemon, "stored_total") == 7, "all is written", 20)
    used = counted(daemon, "bytes")
    await asyncio.sleep(1.5)
    daemon.kill()
    daemon = start(plan)
    await asyncio.to_thread(eventually, lambda: counted(daemon, "bytes") == used, "the worker knows what is there", 20)
    from_disk = "hit; detail=disk"
    assert await told("/0") == ("200", from_disk, "0123456789")
    assert await told("/1", "-H", "Range: bytes=2-4") == ("206", from_disk, "234")
    assert await told("/2", "-H", 'If-None-Match: "one"') == ("304", from_disk, "")
    assert await told("/3", "-I") == ("200", from_disk, "")
    assert await told("/4", "--http2-prior-knowledge") == ("200", from_disk, "0123456789")
    assert await told("/5", "-H", "Cache-Control: no-cache") == (
        "200",
        "fwd=uri-miss; fwd-status=200; stored",
        "0123456789",
    )
    assert origin.served == 8
    assert await told("/short") == ("200", "fwd=stale; fwd-status=304", "0123456789")
    assert (origin.served, origin.validated) == (9, 1)
    assert await told("/none", "--http2-prior-knowledge") == (
        "200", "fwd=uri-miss; fwd-status=200; stored", "0123456789",
    )  # fmt: skip
    assert await told("/none") == ("200", "hit", "0123456789")
    origin.server.close()


async def test_a_change_takes_what_is_on_disk(start: Start, tmp_path: Path) -> None:
    origin = Sized()
    daemon = start(on_disk(await origin.start(), tmp_path / "disk"))
    large = "/1500000/0"
    await given(daemon, [large])
    await asyncio.to_thread(eventually, lambda: counted(daemon, "stored_total") == 2, "it is written")
    assert await given(daemon, [large]) == ["hit; detail=disk"]
    async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
        await client.put(f"http://127.0.0.1:{daemon.port()}{large}", headers={"Host": "example.org"})
    assert (await given(daemon, [large]))[0].startswith("fwd=")
    origin.server.close()


async def test_requests_go_on_without_a_disk(start: Start, tmp_path: Path) -> None:
    origin = Sized()
    address = await origin.start()
    (tmp_path / "file").write_bytes(b"")
    daemon = start(on_disk(address, tmp_path / "file"))
    assert await given(daemon, ["/100/0"] * 2) == ["fwd=uri-miss; fwd-status=200; stored", "hit"]
    assert daemon.log.count("file is not used: Not a directory") == 1
    daemon.stop()
    daemon = start(on_disk(address, tmp_path / "disk"))
    for worker in range(2):  # as a disk that fails: no folder can be made
        path = tmp_path / "disk" / f"{worker:03}"
        if path.exists():
            path.rmdir()
        path.write_bytes(b"")
    targets = [f"/100/{number}" for number in range(20)]
    assert set(await given(daemon, targets)) == {"fwd=uri-miss; fwd-status=200; stored"}
    await asyncio.to_thread(eventually, lambda: counted(daemon, "failing") > 0, "the failure is seen")
    assert set(await given(daemon, targets)) == {"hit"}
    assert daemon.log.count("answers are not kept on disk") == 1
    origin.server.close()
