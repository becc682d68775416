"""Checks of servers that expect a PROXY protocol header, such as HAProxy with `accept-proxy`."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from health_servers import redis_server
from ports import free_port, wait_for_port

from lb.config.schema.file import HealthConfig
from lb.config.schema.pools.pool import PoolConfig
from lb.control.configuration import load_configuration
from lb.errors import ConfigError
from lb.health.check import CheckFailed
from lb.health.registry import build

STEPS: list[dict[str, str]] = [{"send": "PING\r\n"}, {"expect": r"^\+PONG"}]
SERVING: list[dict[str, Any]] = [{"type": "redis"}, {"type": "tcp", "steps": STEPS}]
HEADERS = {"v1": b"PROXY UNKNOWN\r\n", "v2": b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"}


async def ask(address: str, health: dict[str, Any]) -> None:
    await asyncio.wait_for(build(HealthConfig.model_validate(health)).run(address), 20)


async def test_servers_behind_haproxy(tmp_path: Path) -> None:
    async with redis_server(socket.AF_INET, tmp_path) as redis:
        port = free_port()
        (tmp_path / "haproxy.cfg").write_text(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n"
            + f"listen redis\n bind 127.0.0.1:{port} accept-proxy\n server redis {redis}\n"
        )
        haproxy = await asyncio.create_subprocess_exec(
            "haproxy", "-db", "-f", str(tmp_path / "haproxy.cfg"), stderr=asyncio.subprocess.DEVNULL
        )
        try:
            await asyncio.to_thread(wait_for_port, port)
            for health in SERVING:
                for version in HEADERS:
                    await ask(f"127.0.0.1:{port}", {**health, "send_proxy": version})
                with pytest.raises(CheckFailed):
                    await ask(f"127.0.0.1:{port}", health)
        finally:
            haproxy.terminate()
            await haproxy.wait()


@pytest.mark.parametrize("version", HEADERS)
@pytest.mark.parametrize("kind", ["tcp", "redis", "postgres", "mysql", "smtp", "ldap"])
async def test_each_check_begins_with_the_header(kind: str, version: str) -> None:
    header = HEADERS[version]
    came: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set_result(await reader.read(len(header)))
        writer.close()

    health = {"type": kind, "send_proxy": version, **({"user": "a"} if kind == "mysql" else {})}
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        if kind == "tcp":
            await ask(address, health)
        else:
            with pytest.raises(CheckFailed):
                await ask(address, health)
        assert await asyncio.wait_for(came, 20) == header


@pytest.mark.parametrize(
    ("pool", "health", "sent"),
    [
        ("v2", {}, "v2"),
        ("v1", {}, "v1"),
        ("off", {}, "off"),
        ("v2", {"port": 26}, "off"),
        ("v2", {"port": 26, "send_proxy": "v1"}, "v1"),
        ("v2", {"send_proxy": "off"}, "off"),
        ("off", {"send_proxy": "v2"}, "v2"),
    ],
)
def test_what_is_sent(pool: str, health: dict[str, Any], sent: str) -> None:
    """As HAProxy's `check-send-proxy`: what the server's connections begin with, unless the check asks elsewhere."""
    smtp = {"type": "smtp", **health}
    config = {"protocol": "tcp", "endpoints": ["127.0.0.1:25"], "send_proxy": pool, "health": smtp}
    checks = PoolConfig.model_validate(config).checks
    assert checks is not None
    assert checks.send_proxy == sent


FILE = """
listeners: {{a: {{bind: "127.0.0.1:18080", protocol: {protocol}, pool: p}}}}
pools: {{p: {{protocol: {protocol}, endpoints: ["127.0.0.1:18081"], {pool}}}}}
"""


@pytest.mark.parametrize(
    ("protocol", "pool", "said"),
    [
        ("tcp", "send_proxy: v2, health: {type: http}", "health.type: checks of type http send no PROXY header"),
        ("tcp", "health: {type: http, send_proxy: v1}", "health.send_proxy: checks of type http send no PROXY header"),
        ("udp", "health: {type: udp, send: a, send_proxy: v1}", "send_proxy: v1 is for connections only; write v2"),
    ],
)
def test_what_is_refused(protocol: str, pool: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(FILE.format(protocol=protocol, pool=pool))
    with pytest.raises(ConfigError) as raised:
        load_configuration(file)
    assert said in str(raised.value)
