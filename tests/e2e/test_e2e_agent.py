"""Agents beside real endpoints: what they say is what a real daemon does."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from daemon import Daemon, eventually, http_listener, route
from endpoints import Endpoint
from test_e2e_operate import operate
from traffic import ask_once, request

Start = Callable[..., Daemon]
GET = request("GET", "/x")


class Agent:
    def __init__(self) -> None:
        self.line = "up"
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(self.line.encode() + b"\n")
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def agent_on(port: int = 0) -> AsyncIterator[Agent]:
    one = Agent()
    server = await asyncio.start_server(one.serve, "127.0.0.1", port)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()
        await server.wait_closed()


class Rig:
    """A daemon with one endpoint, whose row of the status is waited for."""

    def __init__(self, daemon: Daemon, address: str) -> None:
        self.daemon = daemon
        self.address = address

    def row(self) -> dict[str, Any]:
        found: dict[str, Any] = next(e for e in self.daemon.pool("http")["endpoints"] if e["address"] == self.address)
        return found

    async def becomes(self, what: str, **wanted: Any) -> None:
        def there() -> bool:
            row = self.row()
            found = {key: row[key] for key in wanted}
            assert found == wanted, (what, found, wanted)
            return True

        await asyncio.to_thread(eventually, there, what)


def config(address: str, agent: dict[str, Any] | None, **pool: Any) -> dict[str, Any]:
    settings = {"protocol": "http", "endpoints": [{"address": address, "weight": 100}], **pool}
    if agent is not None:
        settings["agent"] = agent
    return {"listeners": {"web": http_listener(route("/", "http"))}, "pools": {"http": settings}}


def changes(daemon: Daemon) -> list[tuple[str, str, str, str]]:
    found = json.loads(daemon.admin("/api/v1/transitions?pool=http&last=50")[1])["transitions"]
    return [(c["what"], c["from"], c["to"], c["reason"]) for c in reversed(found)]


async def test_an_agent_drains_weighs_and_takes_down(start: Start, endpoint: Callable[..., Any]) -> None:
    server: Endpoint = await endpoint("a")
    async with agent_on() as agent:
        settings = {"port": agent.port, "interval": "30ms"}
        health = {"type": "tcp", "interval": "30ms", "fall": 1, "rise": 1}
        daemon = start(config(server.address, settings, health=health))
        port, rig = daemon.port(), Rig(daemon, server.address)

        async def status() -> int:
            return int((await ask_once(port, GET)).status)

        await asyncio.to_thread(eventually, lambda: rig.row()["agent"]["health"] == "up", "its first word")
        assert await status() == 200
        agent.line = "drain"
        await rig.becomes("drained", admin="drain", health="up")
        assert await status() == 503
        said = await operate(daemon, "enable", "http", server.address)
        assert rig.row()["admin"] == "drain", "an operator took the agent's word back"
        assert "its agent says drain: it gets no new requests until the agent says ready" in said
        agent.line = "ready 50%"
        await rig.becomes("ready", admin="enabled", weight=50)
        assert await status() == 200
        assert "agent" not in await operate(daemon, "enable", "http", server.address)
        assert "weight 20," in await operate(daemon, "weight", "http", server.address, "40")
        assert (await asyncio.to_thread(daemon.reload))["ok"]
        assert rig.row()["weight"] == 20
        agent.line = "maint"
        await rig.becomes("in maintenance", admin="maintenance", check=None)
        assert await status() == 503
        agent.line = "ready 100% down #disk full"
        await rig.becomes("down", admin="enabled", weight=40, health="down")
        assert await status() == 503
        await asyncio.to_thread(eventually, lambda: rig.row()["check"]["checks"] >= 3, "good checks")
        assert rig.row()["health"] == "down", "a good check overruled the agent"
        assert rig.row()["agent"]["description"] == "disk full"
        said = await operate(daemon, "enable", "http", server.address)
        assert "its agent says down: it gets no new requests until the agent says up" in said
        assert (await asyncio.to_thread(daemon.reload))["ok"]
        assert rig.row()["health"] == "down", "a reload forgot it"
        agent.line = "up"
        await rig.becomes("up", health="up")
        assert await status() == 200
        seen = [change for change in changes(daemon) if change[0] != "weight" or change[3] != "an operator"]
        assert seen == [
            ("admin", "enabled", "drain", "its agent"),
            ("admin", "drain", "enabled", "its agent"),
            ("weight", "100", "50", "its agent"),
            ("admin", "enabled", "maintenance", "its agent"),
            ("admin", "maintenance", "enabled", "its agent"),
            ("weight", "20", "40", "its agent"),
            ("health", "up", "down", "its agent says down: disk full"),
            ("health", "down", "up", "its agent says up"),
        ]
        row = f'{{endpoint="{server.address}",pool="http"}}'
        metrics = daemon.admin("/metrics")[1].decode()
        assert f"tidegate_endpoint_agent_up{row} 1" in metrics
        assert f"tidegate_endpoint_agent_weight_percent{row} 100" in metrics


async def test_an_agent_limits_the_requests_at_once(start: Start, endpoint: Callable[..., Any]) -> None:
    server: Endpoint = await endpoint("a", 0.05)
    async with agent_on() as agent:
        agent.line = "maxconn:2"
        daemon = start(config(server.address, {"port": agent.port, "interval": "30ms"}))
        port, rig = daemon.port(), Rig(daemon, server.address)
        await rig.becomes("limited", max_in_flight=2)
        answers = await asyncio.gather(*(ask_once(port, GET) for _ in range(12)))
        assert {answer.status for answer in answers} == {200}
        assert server.peak <= 2
        agent.line = "maxconn:0"
        await rig.becomes("unlimited", max_in_flight=None)
        answers = await asyncio.gather(*(ask_once(port, GET) for _ in range(12)))
        assert {answer.status for answer in answers} == {200}
        assert server.peak > 2


async def test_up_does_not_overrule_checks_and_a_lost_agent_changes_nothing(
    start: Start, endpoint: Callable[..., Any]
) -> None:
    server: Endpoint = await endpoint("a")
    async with agent_on() as agent:
        agent.line = "down"
        settings = {"port": agent.port, "interval": "30ms"}
        daemon = start(config(server.address, settings, health={"type": "tcp", "interval": "30ms", "fall": 1}))
        rig = Rig(daemon, server.address)
        await rig.becomes("down", health="down")
        server.server.close()
        await asyncio.to_thread(eventually, lambda: rig.row()["check"]["state"] == "down", "its check")
        agent.line = "up drain 10%"
        await rig.becomes("drained", admin="drain", weight=10)
        assert rig.row()["health"] == "down", "an agent overruled a failed check"
    await asyncio.to_thread(eventually, lambda: not rig.row()["agent"]["last"]["ok"], "its loss")
    assert (rig.row()["admin"], rig.row()["weight"]) == ("drain", 10)
    # Out of the configuration: its words are taken back.
    daemon.write(config(server.address, None))
    assert (await asyncio.to_thread(daemon.reload))["ok"]
    row = rig.row()
    assert (row["admin"], row["weight"], row["health"], row["agent"]) == ("enabled", 100, "unchecked", None)


async def test_a_pool_that_its_agent_keeps_in_maintenance_can_be_removed_and_comes_back_fresh(
    start: Start, endpoint: Callable[..., Any]
) -> None:
    server: Endpoint = await endpoint("a")
    async with agent_on() as agent:
        agent.line = "maint down 10%"
        health = {"type": "tcp", "interval": "30ms"}
        with_agent = config(server.address, {"port": agent.port, "interval": "30ms"}, health=health)
        daemon = start(with_agent)
        rig = Rig(daemon, server.address)
        await rig.becomes("in maintenance", admin="maintenance", health="down", weight=10)
        other = config(server.address, None)
        other["pools"]["other"] = other["pools"].pop("http")
        other["listeners"]["web"] = http_listener(route("/", "other"))
        daemon.write(other)
        assert (await asyncio.to_thread(daemon.reload))["ok"]
        assert (await ask_once(daemon.port(), GET)).status == 200
        daemon.write(config(server.address, None, health=health))
        assert (await asyncio.to_thread(daemon.reload))["ok"]
        await rig.becomes("as new", admin="enabled", weight=100, health="up", agent=None)
        assert (await ask_once(daemon.port(), GET)).status == 200
