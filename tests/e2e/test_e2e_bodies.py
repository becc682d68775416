"""Answers of routes, and error pages, whose body is in a file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from daemon import Daemon, http_listener
from ports import free_port
from traffic import ask_once, request
from waiting import eventually

Start = Callable[..., Daemon]


async def test_bodies_from_files(start: Start, tmp_path: Path) -> None:
    page, text, odd = tmp_path / "sorry.html", tmp_path / "policy", tmp_path / "x.bin"
    page.write_text("<p>back at ten</p>")
    text.write_bytes("caf\xe9".encode())
    odd.write_bytes(bytes(range(256)))
    config = {
        "listeners": {
            "web": http_listener(
                {"match": {"path": {"exact": "/text"}}, "respond": {"file": str(text), "headers": {"X-A": "1"}}},
                {
                    "match": {"path": {"exact": "/odd"}},
                    "respond": {"file": str(odd), "headers": {"content-type": "application/x-odd"}},
                },
                {"respond": {"status": 503, "file": str(page)}},
                {"match": {"path": {"exact": "/gone"}}, "pool": "gone"},
                error_pages=[{"on": ["5xx"], "file": str(page)}],
            )
        },
        "pools": {"gone": {"protocol": "http", "endpoints": [f"127.0.0.1:{free_port()}"]}},
    }
    daemon = start(config)
    port = daemon.port()

    async def ask(path: str, method: str = "GET") -> tuple[int, str, bytes]:
        answer = await ask_once(port, request(method, path))
        return answer.status, answer.headers["content-type"], answer.body

    assert await ask("/") == (503, "text/html; charset=utf-8", b"<p>back at ten</p>")
    assert await ask("/gone") == (502, "text/html; charset=utf-8", b"<p>back at ten</p>")
    assert await ask("/text") == (200, "text/plain; charset=utf-8", "caf\xe9".encode())
    assert await ask("/odd") == (200, "application/x-odd", bytes(range(256)))

    # It is read again when it changes; what cannot be used leaves the content in force.
    new = tmp_path / "new"
    new.write_text("<p>back at noon</p>")
    new.rename(page)
    async with asyncio.timeout(30):
        while (await ask("/"))[2] != b"<p>back at noon</p>":
            await asyncio.sleep(0.1)
    assert (await ask("/gone"))[2] == b"<p>back at noon</p>"
    for content, why in ((b"x" * ((1 << 20) + 1), "is larger than 1048576 bytes"), (None, "No such file")):
        if content is None:
            page.unlink()
        else:
            page.write_bytes(content)
        await asyncio.to_thread(eventually, lambda why=why: why in daemon.log, "a line in the log")
        assert (await ask("/"))[2] == b"<p>back at noon</p>"
    assert not daemon.reload()["ok"]
    checked = await asyncio.to_thread(daemon.command, "check")
    assert checked.returncode != 0
    assert "listeners.web.routes[2].respond.file" in checked.stderr + checked.stdout
    page.write_bytes(b"")
    assert daemon.reload()["ok"]
    assert await ask("/") == (503, "text/html; charset=utf-8", b"")
