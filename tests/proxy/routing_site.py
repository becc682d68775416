"""Gates made of a configuration's routes and pools, endpoints that show what they got, and curl in front."""

from __future__ import annotations

import asyncio
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from datapath import Gate, Site, listening_socket

from lb.config.checks.file import check_config
from lb.config.environment import Sources, expanded
from lb.config.plan.compile import compile_plan
from lb.config.plan.plan import Plan
from lb.config.schema.file import Config
from lb.control.certificates import TlsFiles
from lb.proxy.proxy import Proxy
from lb.proxy.routing.checks import check_routes
from lb.shared.segment import Segment


class Numbers:
    """An Allocator that counts, as the master's does."""

    def __init__(self) -> None:
        self.slots: dict[tuple[str, str], int] = {}
        self.series_of: dict[tuple[str, str], int] = {}

    def endpoint(self, pool: str, address: str) -> int:
        return self.slots.setdefault((pool, address), len(self.slots))

    def series(self, kind: str, name: str) -> int:
        return self.series_of.setdefault((kind, name), len(self.series_of))


def marked(data: Any) -> Any:
    """`data` with the marks that a load puts around values of requests."""
    if isinstance(data, dict):
        return {key: marked(value) for key, value in data.items()}
    if isinstance(data, list):
        return [marked(value) for value in data]
    return expanded(data, Sources({}, Path("/")), []) if isinstance(data, str) else data


def plan_of(routes: list[dict[str, Any]], pools: dict[str, Any], numbers: Numbers, **listener: Any) -> Plan:
    """The plan of a listener `web`; a pool is a list of addresses or a section of the configuration."""
    # Whose turn it is does not depend on what the endpoints answered before, unless a test says so.
    sections = {
        name: {"protocol": "http", "avoid_failing": False, **(pool if isinstance(pool, dict) else {"endpoints": pool})}
        for name, pool in pools.items()
    }
    maps, sections = marked(listener.pop("maps", {})), marked(sections)
    web = {"bind": "127.0.0.1:0", "protocol": "http", "routes": marked(routes), **listener}
    log = {"access": "-"}  # written by nobody here
    config = Config.model_validate({"listeners": {"web": web}, "pools": sections, "maps": maps, "log": log})
    files = TlsFiles()
    assert files.check(config) == []
    assert check_config(config) + check_routes(config) == []
    return compile_plan(config, generation=1, workers=1, allocator=numbers, managed={}, material=files.material)


async def routing_gate(
    site: Site, routes: list[dict[str, Any]], pools: dict[str, Any], capacity: int = 4096, **listener: Any
) -> Gate:
    """A running data path with these routes; all endpoints are up."""
    plan = plan_of(routes, pools, Numbers(), **listener)
    master = Segment.create(1, capacity, capacity)
    for pool in plan.pools:
        for endpoint in pool.endpoints:
            master.set_health(endpoint.slot, True, 0)
            master.set_weight(endpoint.slot, endpoint.weight)
    fd, port = listening_socket()
    proxy = Proxy(asyncio.get_running_loop(), Segment.attach(master.fd, 0))
    proxy.apply(plan, {"web": fd})
    gate = Gate(proxy, master, plan, port)
    site.gates.append(gate)
    return gate


@dataclass
class Shown:
    """An endpoint that answers with its name and keeps what it got. `answers` are given in turn, the last for ever."""

    name: str
    answers: list[bytes] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    delay: float = 0

    @property
    def last(self) -> bytes:
        return self.requests[-1]

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
            self.requests.append(head + body)
            if self.delay:
                await asyncio.sleep(self.delay)
            name = self.name.encode()
            answer = b"HTTP/1.1 200 OK\r\nX-From: %s\r\nContent-Length: %d\r\n\r\n%s" % (name, len(name), name)
            if self.answers:
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            writer.write(answer)
            await writer.drain()


async def shown(site: Site, *names: str) -> tuple[dict[str, Shown], dict[str, list[str]]]:
    """Endpoints by name, and for each a pool of its name."""
    made = {name: Shown(name) for name in names}
    return made, {name: [await site.endpoint(endpoint)] for name, endpoint in made.items()}


@dataclass
class Reply:
    status: int
    fields: dict[str, str]
    body: str


async def curl(gate: Gate, target: str = "/", *options: str) -> Reply:
    """What curl gets for `target`, which it sends as it is."""
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not installed")
    process = await asyncio.create_subprocess_exec(
        program, "-s", "-i", "--path-as-is", "--max-time", "20", *options, f"http://127.0.0.1:{gate.port}{target}",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, (process.returncode, output)
    head, _, body = output.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Reply(int(status.split()[1]), fields, body.decode())
