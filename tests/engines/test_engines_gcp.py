"""Google Cloud as an engine and as a source of endpoints, against an emulation of Compute Engine's API: a real HTTP
server over a group in memory. No Google server has been asked."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from engine_contract import PlatformContract

sys.path.insert(0, str(Path(__file__).parents[1] / "discovery"))

from discovery_pools import pool
from source_contract import SourceContract

from lb.config.schema.pools.engine import GcpEngineConfig
from lb.config.schema.pools.platforms import GcpSourceConfig
from lb.discovery.gcp import GcpSource
from lb.engines.gcp import GcpEngine
from lb.platforms.error import PlatformError

PLACE = {"project": "p", "zone": "europe-west3-a", "group": "models"}


class EmulatedCompute:
    """One managed instance group, whose instances are there at once; pages hold two."""

    def __init__(self) -> None:
        self.url = ""
        self.hosts: list[str] = ["10.0.0.1", "10.0.0.2"]
        self.size = 2
        self.fault = 0
        self.autoscaler = ""
        self.actions: dict[str, str] = {}
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        base = "/projects/p/zones/europe-west3-a"
        app = web.Application(middlewares=[self._broken])
        app.add_routes(
            [
                web.get(f"{base}/instanceGroupManagers/models", self._get),
                web.post(f"{base}/instanceGroupManagers/models/resize", self._resize),
                web.post(f"{base}/instanceGroupManagers/models/listManagedInstances", self._list),
                web.get(base + "/instances/{name}", self._instance),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @web.middleware
    async def _broken(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.fault:
            return web.json_response(
                {"error": {"code": self.fault, "message": "the fault\nof the test"}}, status=self.fault
            )
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _get(self, request: web.Request) -> web.Response:
        status = {"isStable": True, **({"autoscaler": self.autoscaler} if self.autoscaler else {})}
        return web.json_response({"name": "models", "targetSize": self.size, "status": status})

    async def _resize(self, request: web.Request) -> web.Response:
        self.size = int(request.query["size"])
        self.hosts = [f"10.0.0.{i + 1}" for i in range(self.size)]
        return web.json_response({"kind": "compute#operation", "status": "RUNNING"})

    async def _list(self, request: web.Request) -> web.Response:
        begin = int(request.query.get("pageToken", "0"))
        rows = [
            {
                "id": host,
                "instance": f"https://www.googleapis.com/compute/v1/projects/p/zones/europe-west3-a/instances/{host}",
                "instanceStatus": "RUNNING",
                "currentAction": self.actions.get(host, "NONE"),
            }
            for host in self.hosts[begin : begin + 2]
        ]
        more = {"nextPageToken": str(begin + 2)} if begin + 2 < len(self.hosts) else {}
        return web.json_response({"managedInstances": rows, **more})

    async def _instance(self, request: web.Request) -> web.Response:
        host = request.match_info["name"]
        zone = "https://www.googleapis.com/compute/v1/projects/p/zones/europe-west3-a"
        return web.json_response({"zone": zone, "networkInterfaces": [{"networkIP": host}]})


@pytest.fixture
async def compute() -> AsyncIterator[EmulatedCompute]:
    server = EmulatedCompute()
    await server.start()
    yield server
    await server.stop()


def engine(compute: EmulatedCompute) -> GcpEngine:
    return GcpEngine("chat", GcpEngineConfig(**PLACE, api=compute.url), pool())


class TestEngine(PlatformContract):
    @pytest.fixture(autouse=True)
    def _world(self, compute: EmulatedCompute) -> None:
        self.compute = compute

    async def build(self) -> GcpEngine:
        return engine(self.compute)

    async def number(self) -> int:
        return self.compute.size

    async def set_number(self, number: int) -> None:
        self.compute.size = number

    async def damage(self) -> None:
        self.compute.fault = 503

    async def mend(self) -> None:
        self.compute.fault = 0


class TestSource(SourceContract):
    @pytest.fixture(autouse=True)
    def _world(self, compute: EmulatedCompute) -> None:
        self.compute = compute

    def build(self) -> GcpSource:
        return GcpSource("chat", GcpSourceConfig(**PLACE, api=self.compute.url, port=9001), pool())

    def put(self, hosts: list[str]) -> None:
        self.compute.fault = 0
        self.compute.hosts = hosts

    def damage(self) -> None:
        self.compute.fault = 500


async def test_instances_that_are_made_or_deleted_are_no_endpoints(compute: EmulatedCompute) -> None:
    compute.hosts = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    compute.actions = {"10.0.0.2": "DELETING", "10.0.0.3": "CREATING"}
    ours = GcpSource("chat", GcpSourceConfig(**PLACE, api=compute.url, port=9001), pool())
    found = (await ours.look()).endpoints
    assert [(e.address, e.zone) for e in found] == [("10.0.0.1:9001", "europe-west3-a")]
    await ours.close()
    seen = await engine(compute).look()
    assert (seen.running, seen.detail) == (1, "1 CREATING, 1 DELETING")


async def test_a_group_with_an_autoscaler_of_its_own_is_refused(compute: EmulatedCompute) -> None:
    compute.autoscaler = "https://www.googleapis.com/compute/v1/projects/p/zones/europe-west3-a/autoscalers/theirs"
    ours = engine(compute)
    with pytest.raises(PlatformError, match="an autoscaler of its own, theirs"):
        await ours.look()
    await ours.close()
