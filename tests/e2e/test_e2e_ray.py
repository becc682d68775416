"""Model servers as actors of a real Ray cluster of two nodes, one of which dies under load.

Ray is in an environment of its own (build/ray, `make build/stamps/ray`), the cluster is of this machine.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon import ROOT, Daemon, digits_pool, http_listener, route
from traffic import digit_request, digit_samples, load
from waiting import until_in_thread

Start = Callable[..., Daemon]
PYTHON = ROOT / "build" / "ray" / "bin" / "python"
SCRIPT = Path(__file__).parents[1] / "engines" / "ray_cluster.py"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Cluster:
    """A head and a node, with room for one model server each."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [PYTHON, SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.address = self._answer("address ")

    def order(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        self._answer("done")

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def _answer(self, beginning: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(beginning):
                return line.removeprefix(beginning).strip()
        raise AssertionError("the cluster has ended")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    one = Cluster()
    yield one
    one.end()


def config(address: str, **serve: Any) -> dict[str, Any]:
    engine = {"ray": {"address": address, "python": str(PYTHON)}}
    pool = {**digits_pool(start_timeout="120s", **serve), "engine": engine}
    return {"listeners": {"web": http_listener(route("/", "digits"))}, "pools": {"digits": pool}}


def ready(daemon: Daemon) -> list[str]:
    return [r["address"] for r in daemon.pool("digits")["managed"]["replicas"] if r["state"] == "ready"]


async def test_a_node_that_dies_takes_no_more_than_the_requests_it_ran(start: Start, cluster: Cluster) -> None:
    daemon = await asyncio.to_thread(start, config(cluster.address, min=2))
    await until_in_thread(lambda: len(ready(daemon)) == 2, "a model server on each node", 120)
    before = await asyncio.to_thread(ready, daemon)
    status = (await asyncio.to_thread(daemon.pool, "digits"))["managed"]["engine"]
    assert (status["engine"], status["state"], status["number"], status["running"]) == ("ray", "current", 2, 2)
    messages = [digit_request(sample["image"]) for sample in digit_samples()]
    async with load(await asyncio.to_thread(daemon.port), messages, clients=8) as running:
        await running.until(200)
        await asyncio.to_thread(cluster.order, "kill")
        await until_in_thread(lambda: len(ready(daemon)) == 1, "the end of the one that was there")
        # A client has one request under way, and goes on after its failure: what the dead node ran may fail once.
        failed = len(running.failures)
        assert failed <= 8
        await running.until(300)
        assert len(running.failures) == failed, running.reasons
        # The one that is missing waits for room, and starts once there is some.
        await asyncio.to_thread(cluster.order, "add")
        await until_in_thread(lambda: len(ready(daemon)) == 2, "another in its place", 120)
        await running.until(200)
        assert len(running.failures) == failed, running.reasons
    assert len(set(await asyncio.to_thread(ready, daemon)) & set(before)) == 1
    assert await asyncio.to_thread(daemon.stop) == 0


async def test_a_master_that_is_killed_leaves_no_model_server(start: Start, cluster: Cluster) -> None:
    daemon = await asyncio.to_thread(start, config(cluster.address, min=1))
    await until_in_thread(lambda: len(ready(daemon)) == 1, "a model server", 120)
    host, _, port = (await asyncio.to_thread(ready, daemon))[0].rpartition(":")
    daemon.process.kill()

    async def refused() -> bool:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            return True
        writer.close()
        return False

    for _ in range(600):
        if await refused():
            break
        await asyncio.sleep(0.1)
    assert await refused()


async def test_a_cluster_that_is_not_there_is_said_and_tried_again(start: Start) -> None:
    daemon = await asyncio.to_thread(start, config("127.0.0.1:1", min=1, backoff={"initial": "1s"}), False)
    await until_in_thread(lambda: "no connection to Ray at 127.0.0.1:1" in daemon.log, "the reason", 90)
    await until_in_thread(
        lambda: "Ray" in daemon.pool("digits")["managed"]["replicas"][0]["last_error"], "the reason in status", 90
    )
