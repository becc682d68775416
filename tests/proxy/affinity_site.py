"""Endpoints that know their clients, and a pool that leads each client back to its own."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from datapath import SECOND, Gate, Site

from lb.config.plan.plan import CookiePlan, LearnPlan, PolicyPlan, QueuePlan
from lb.shared.affinity_table import AffinityTable

COOKIE = CookiePlan("STAY", "/", "", 0, False, True, "")
SERIES = 310
LEARN = LearnPlan("cookie", "SID", 60 * SECOND, SERIES)
HEADER = LearnPlan("header", "mcp-session-id", 60 * SECOND, SERIES)
QUEUE = QueuePlan(series=300, max=100, timeout_ns=10 * SECOND, overload_after_ns=60 * SECOND, overload_share=0.25)
ROUND = PolicyPlan("round_robin")
ENABLED, DRAIN, MAINTENANCE = 0, 1, 2


class App:
    """An endpoint with sessions in its memory. /login makes one; /logout ends it; /hold waits; /status/N answers N. The
    body is its name, with a "!" where it knows the session of the request."""

    def __init__(self, name: str, header: str = "") -> None:
        self.name = name
        self.header = header
        self.sessions: set[str] = set()
        self.seen: list[str] = []
        self.hold = asyncio.Event()
        self.close = False
        self.fails = False
        self.answer = ""  # what stands in for the field that a login gives

    def session_of(self, head: str) -> str:
        pattern = rf"(?im)^{self.header}: (\S+)\r$" if self.header else r"(?i)[ ;]SID=([^;\r]*)"
        found = re.search(pattern, head)
        return found[1] if found else ""

    def field(self, path: str) -> str:
        if path == "/login":
            made = f"{self.name}-{len(self.sessions)}-secret"
            self.sessions.add(made)
            return self.answer or (f"{self.header}: {made}" if self.header else f"Set-Cookie: SID={made}; Path=/")
        if path == "/logout":
            return f"{self.header}:" if self.header else "Set-Cookie: SID=; Path=/; Max-Age=0"
        return "X-Nothing: new"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.seen.append(head)
            path = head.split(" ")[1]
            if path == "/hold":
                await self.hold.wait()
            status = int(path.removeprefix("/status/")) if path.startswith("/status/") else 200
            status = 503 if self.fails else status
            body = self.name + ("!" if self.session_of(head) in self.sessions else "")
            end = "Connection: close\r\n" if self.close else ""
            writer.write(
                f"HTTP/1.1 {status} X\r\nSet-Cookie: other=1\r\n{self.field(path)}\r\n{end}"
                f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            if self.close:
                writer.close()
                return


class Web:
    """A gate in front of `apps`."""

    def __init__(self, gate: Gate, apps: list[App]) -> None:
        self.gate = gate
        self.apps = apps
        self.header = apps[0].header

    async def get(self, session: str = "", path: str = "/", status: int = 200) -> tuple[str, str]:
        """The body, and the session that the answer gives ("" for none)."""
        line = ""
        if session:
            line = f"{self.header}: {session}\r\n" if self.header else f"Cookie: a=1; SID={session}\r\n"
        answer = await self.gate.exchange(
            f"GET {path} HTTP/1.1\r\nHost: a\r\n{line}Connection: close\r\n\r\n".encode("latin-1")
        )
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), answer
        pattern = rf"(?im)^{self.header}: (\S+)\r?$" if self.header else r"(?im)^set-cookie: SID=([^;\r]+)"
        found = re.search(pattern, head.decode())
        return body.decode(), found[1] if found else ""

    async def login(self, name: str = "") -> tuple[str, str]:
        """A session, at the endpoint `name` if one is given."""
        for _ in range(20):
            body, session = await self.get(path="/login")
            assert session
            if name in ("", body):
                return body, session
        raise AssertionError(f"no request came to {name}")

    async def stays(self, session: str, name: str) -> None:
        for _ in range(6):
            assert (await self.get(session))[0] == f"{name}!"

    def slot(self, name: str) -> int:
        return self.gate.plan.pools[0].endpoints[int(name)].slot

    @property
    def known(self) -> int:
        """Sessions in the table."""
        return sum(AffinityTable(self.gate.segment, True).open(0).values())

    def counted(self) -> tuple[int, int, int, int, int]:
        """Hits, unknown, fallbacks, learned, ended."""
        series = self.gate.total(SERIES)
        requests = series.values("requests")
        return requests["hit"], requests["unknown"], requests["fallback"], series["learned"], series["ended"]


async def web(site: Site, count: int = 3, learn: LearnPlan = LEARN, **settings: Any) -> Web:
    apps = [App(str(i), "Mcp-Session-Id" if learn.kind == "header" else "") for i in range(count)]
    addresses = [await site.endpoint(app.serve) for app in apps]
    pool = {"learn": learn, "policy": ROUND, **settings.pop("pool", {})}
    return Web(await site.gate(addresses, pool=pool, **settings), apps)
