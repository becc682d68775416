"""Daemons scale a pool on Kubernetes under load: one of several, and another when that one dies.

The API is an emulation (tests/engines/emulated_kubernetes.py); a controller of the test's plays the cluster's: it
starts and ends real HTTP endpoints as the deployment says, and lists them in an EndpointSlice.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from daemon import Daemon, http_listener, route
from endpoints import Endpoint
from ports import free_port
from traffic import load, request
from waiting import until, until_in_thread

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))

from emulated_kubernetes import EmulatedKubernetes

from lb.control.admin import external_metrics
from lb.wire import externalscaler_pb2 as messages
from lb.wire.services import Stub

Start = Callable[..., Daemon]
GET = request("GET", "/x")
CPU = {"metrics": [{"type": "cpu", "target": 70}]}
DNS = {"dns": {"name": "a.b", "port": 1}}


class Cluster:
    """The emulation with its controller: one endpoint for each replica."""

    def __init__(self) -> None:
        self.api = EmulatedKubernetes()
        self.endpoints: list[Endpoint] = []
        self.ending: list[Endpoint] = []
        self.made = 0
        self.most = 0

    async def run(self) -> None:
        while True:
            wanted = self.api.replicas("chat")
            self.most = max(self.most, wanted)
            changed = wanted != len(self.endpoints)
            while len(self.endpoints) < wanted:
                endpoint = Endpoint(f"pod-{self.made}", 0.02)
                await endpoint.start()
                self.made += 1
                self.endpoints.append(endpoint)
            while len(self.endpoints) > wanted:
                self.ending.append(self.endpoints.pop())
            if changed:
                self.tell()
            if not wanted:
                self.finish()
            await asyncio.sleep(0.02)

    def tell(self) -> None:
        """A slice for each endpoint, since each has a port of its own here."""
        for endpoint in self.endpoints:
            self.api.slice(endpoint.name, "chat", [self._row(True)], ports=self._ports(endpoint))
        for endpoint in self.ending:
            self.api.slice(endpoint.name, "chat", [self._row(False)], ports=self._ports(endpoint))

    def finish(self) -> None:
        """Pods that end are gone."""
        for endpoint in self.ending:
            self.api.remove(f"/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/{endpoint.name}")
            endpoint.server.close()
        self.ending.clear()

    @staticmethod
    def _row(ready: bool) -> dict[str, Any]:
        return {"addresses": ["127.0.0.1"], "conditions": {"ready": ready, "serving": True, "terminating": not ready}}

    @staticmethod
    def _ports(endpoint: Endpoint) -> list[dict[str, Any]]:
        return [{"name": "http", "protocol": "TCP", "port": int(endpoint.address.rpartition(":")[2])}]


@asynccontextmanager
async def cluster() -> AsyncIterator[Cluster]:
    one = Cluster()
    await one.api.start()
    one.api.deployment("chat", 1)
    task = asyncio.create_task(one.run())
    await until(lambda: one.endpoints)
    try:
        yield one
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for endpoint in (*one.endpoints, *one.ending):
            endpoint.server.close()
        await one.api.stop()


def config(api: str, **engine: Any) -> dict[str, Any]:
    behaviour = {"window": "1s", "policies": [{"type": "percent", "value": 100, "period": "1s"}]}
    pool = {
        "protocol": "http",
        "discover": {"kubernetes": {"api": api, "service": "chat"}},
        "engine": {
            "kubernetes": {"api": api, "target": "deployment/chat"},
            "max": 4,
            "lease": {"kubernetes": {"api": api}, "duration": "3s"},
            **engine,
        },
        "scaling": {
            "metrics": [{"type": "in_flight", "target": 4}],
            "interval": "500ms",
            "up": behaviour,
            "down": behaviour,
        },
    }
    return {"workers": 1, "listeners": {"web": http_listener(route("/", "chat"))}, "pools": {"chat": pool}}


def engine(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.pool("chat")["engine"]
    return found


async def test_a_pool_grows_and_shrinks_with_its_load_and_no_request_fails(start: Start) -> None:
    async with cluster() as world:
        daemon = await asyncio.to_thread(start, config(world.api.url))
        await until_in_thread(lambda: engine(daemon)["leads"], "the lease")
        port = await asyncio.to_thread(daemon.port)
        async with load(port, [GET], clients=16) as running:
            await until(lambda: len(world.endpoints) == 4, "four replicas")
            await until(lambda: all(e.served > 5 for e in world.endpoints), "requests to each")
            await running.until(200)
        assert running.failures == []
        await until(lambda: len(world.endpoints) == 1, "one replica")
        await until_in_thread(lambda: engine(daemon)["drift"] == 0, "the look that confirms it")
        status = await asyncio.to_thread(engine, daemon)
        assert (status["engine"], status["state"]) == ("kubernetes", "current")
        assert status["scaling"]["scaled_up"] >= 1
        text = (await asyncio.to_thread(daemon.command, "status")).stdout
        assert "kubernetes deployment/chat" in text
        samples = await asyncio.to_thread(daemon.metrics, "tidegate_engine_replicas")
        assert list(samples.values()) == [1]
        assert await asyncio.to_thread(daemon.stop) == 0
        assert world.api.replicas("chat") == 1
        assert world.api.lease("tidegate-chat")["spec"]["holderIdentity"] == ""


async def test_of_three_daemons_one_scales_by_the_load_of_all(start: Start) -> None:
    async with cluster() as world:
        daemons = [await asyncio.to_thread(start, config(world.api.url)) for _ in range(3)]
        ports = [await asyncio.to_thread(daemon.port) for daemon in daemons]

        def leaders() -> list[Daemon]:
            return [daemon for daemon in daemons if engine(daemon)["leads"]]

        await until_in_thread(lambda: len(leaders()) == 1, "one leader")
        leader = (await asyncio.to_thread(leaders))[0]
        others = [port for daemon, port in zip(daemons, ports, strict=True) if daemon is not leader]
        # Five clients of each of the two that do not lead: neither of them alone needs more than two replicas.
        async with load(others[0], [GET], clients=6) as one, load(others[1], [GET], clients=6) as two:
            await until(lambda: len(world.endpoints) >= 3, "replicas for both")
            assert (await asyncio.to_thread(engine, leader))["lease"]["daemons"].keys()
            # The leader dies: another takes over, and scales neither twice nor back while it does not know.
            leader.kill()
            daemons.remove(leader)
            await until_in_thread(lambda: len(leaders()) == 1, "another leader")
            await one.until(50)
            await two.until(50)
            assert len(world.endpoints) >= 3
        assert one.failures == []
        assert two.failures == []
        held = (await asyncio.to_thread(leaders))[0]
        status = await asyncio.to_thread(engine, held)
        if status["held"]:
            assert "no news of the load of" in status["held"]
        assert world.most <= 4


async def test_while_the_api_is_silent_nothing_changes_and_requests_are_served(start: Start) -> None:
    async with cluster() as world:
        daemon = await asyncio.to_thread(start, config(world.api.url, lease="off"))
        await until_in_thread(lambda: engine(daemon)["state"] == "current", "a look")
        world.api.fault = 503
        await until_in_thread(lambda: engine(daemon)["state"] == "stale", "the error")
        async with load(await asyncio.to_thread(daemon.port), [GET], clients=16) as running:
            await running.until(300)
        assert running.failures == []
        assert len(world.endpoints) == 1
        world.api.fault = 0
        await until_in_thread(lambda: engine(daemon)["state"] == "current", "a good look")


async def get(port: int) -> httpx.Response:
    async with httpx.AsyncClient(timeout=60) as client:
        return await client.get(f"http://127.0.0.1:{port}/x")


async def test_to_zero_and_back(start: Start) -> None:
    async with cluster() as world:
        daemon = await asyncio.to_thread(start, config(world.api.url, lease="off", min=0, idle_timeout="1s"))
        port = await asyncio.to_thread(daemon.port)

        def asleep() -> bool:
            return bool(engine(daemon)["on_demand"]["asleep"]) and not daemon.pool("chat")["endpoints"]

        for wakes in (1, 2):
            await until_in_thread(asleep, "it goes to zero")
            assert world.endpoints == []
            answers = await asyncio.gather(*(get(port) for _ in range(20)))
            assert {answer.status_code for answer in answers} == {200}
            status = await asyncio.to_thread(engine, daemon)
            assert (status["on_demand"]["wakes"], status["min"]) == (wakes, 0)
        await until_in_thread(asleep, "it goes to zero")
        text = (await asyncio.to_thread(daemon.command, "status")).stdout
        assert "the next request starts a model server" in text
        samples = await asyncio.to_thread(daemon.metrics, "tidegate_pool_asleep")
        assert samples == {frozenset({("pool", "chat")}): 1}
        # Where none can be had nobody is kept waiting.
        world.api.fault = 503
        refused = await get(port)
        assert refused.status_code == 503
        assert refused.json()["error"] == (
            "no endpoint of pool chat is available: what runs its replicas cannot be told to start one"
        )
        assert int(refused.headers["retry-after"]) >= 1
        world.api.fault = 0
        url = f"http://127.0.0.1:{port}/x"
        await until_in_thread(lambda: httpx.get(url, timeout=60).status_code == 200, "an answer")


async def test_a_request_at_a_daemon_that_does_not_scale_wakes_the_pool(start: Start) -> None:
    async with cluster() as world:
        settings = config(world.api.url, min=0, idle_timeout="1s")
        daemons = [await asyncio.to_thread(start, settings) for _ in range(2)]
        await until_in_thread(lambda: sum(engine(daemon)["leads"] for daemon in daemons) == 1, "one leader")
        await until(lambda: world.api.replicas("chat") == 0, "it goes to zero", 30)
        leads = [(await asyncio.to_thread(engine, daemon))["leads"] for daemon in daemons]
        follower = daemons[leads.index(False)]
        await until_in_thread(lambda: not follower.pool("chat")["endpoints"], "it knows of no endpoint")
        answers = await asyncio.gather(*(get(follower.port()) for _ in range(5)))
        assert {answer.status_code for answer in answers} == {200}


async def test_an_autoscaler_of_kubernetes_asks(start: Start) -> None:
    async with cluster() as world:
        settings = config(world.api.url)
        address = f"127.0.0.1:{free_port()}"
        settings["pools"]["chat"]["engine"] = {"external": {"keda": address}, "max": 4}
        daemon = await asyncio.to_thread(start, settings)
        reference = messages.ScaledObjectRef(name="chat", namespace="default", scalerMetadata={"pool": "chat"})
        async with grpc.aio.insecure_channel(address) as channel:
            stub = Stub(channel, messages.DESCRIPTOR.services_by_name["ExternalScaler"])
            active = stub.StreamIsActive(reference, wait_for_ready=True)
            assert not (await active.read()).result
            async with load(await asyncio.to_thread(daemon.port), [GET], clients=16) as running:
                assert (await active.read()).result

                async def wanted() -> float:
                    request = messages.GetMetricsRequest(scaledObjectRef=reference)
                    try:
                        return float((await stub.GetMetrics(request)).metricValues[0].metricValueFloat)
                    except grpc.aio.AioRpcError:  # before the first decision
                        return 0

                for _ in range(600):
                    if await wanted() == 4:
                        break
                    await asyncio.sleep(0.1)
                assert await wanted() == 4
                path = f"{external_metrics.PATH}/namespaces/default/tidegate-replicas-wanted?labelSelector=pool=chat"
                code, body = await asyncio.to_thread(daemon.admin, path)
                assert (code, json.loads(body)["items"][0]["value"]) == (200, "4")
                assert (await asyncio.to_thread(daemon.admin, external_metrics.PATH))[0] == 200
                await running.until(50)
        assert running.failures == []
        assert world.api.replicas("chat") == 1, "Tidegate changes nothing"


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ({"engine": "kubernetes", "endpoints": ["127.0.0.1:1"]}, "engine.kubernetes.target"),
        ({"engine": {"aws": {"group": "x"}}, "endpoints": ["127.0.0.1:1"]}, "needs discover"),
        ({"engine": {"aws": {"group": "x"}, "gcp": {}}, "discover": DNS}, "engine"),
        ({"engine": "ray", "discover": DNS}, "needs serve"),
        ({"engine": {"aws": {"group": "x"}, "min": 5, "max": 2}, "discover": DNS}, "more than max"),
        ({"engine": "external", "discover": DNS}, "needs scaling"),
        ({"engine": "nomad", "discover": DNS}, "nomad"),
        ({"engine": {"aws": {"group": "x"}, "idle_timeout": "1m"}, "discover": DNS}, "has no effect without min: 0"),
        ({"engine": {"aws": {"group": "x"}, "min": 0}, "ready_endpoints": 1, "discover": DNS}, "min: 0 of engine"),
        ({"engine": {"aws": {"group": "x"}}, "discover": DNS, "scaling": CPU}, "cpu is not known of other machines"),
        ({"engine": "ray", "serve": {"command": ["x"]}}, "runs the model server of serve.models only"),
        ({"engine": "ray", "protocol": "oip", "serve": {"models": "/", "cores": 1}}, "not with serve.cores"),
    ],
)  # fmt: skip
def test_mistakes_are_said(tmp_path: Path, pool: dict[str, Any], message: str) -> None:
    import forked
    import yaml
    from daemon import environment

    path = tmp_path / "t.yaml"
    listener = {"web": http_listener(route("/", "chat"))}
    path.write_text(yaml.safe_dump({"listeners": listener, "pools": {"chat": {"protocol": "http", **pool}}}))
    result = forked.run(["check", "-c", str(path)], env=environment(), check=False)
    assert result.returncode == 1
    assert message in result.stdout + result.stderr
