"""The tour that `make run` gives: a few held-out digits through the daemon that has just become ready."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from lb.control.master import Master

log = logging.getLogger("tidegate.tour")

_READY_POLL = 0.1
_TIMEOUT = aiohttp.ClientTimeout(total=10)


class Shown(Struct, frozen=True):
    """One row: what came back for a sample."""

    label: int
    predicted: int
    endpoint: str
    cache: str
    milliseconds: float


class Tour:
    """A service of the master: waits until it is ready, sends samples, prints what came back and where to look next.

    `samples` is a JSON file of [{"label": int, "image": [64 numbers]}]; the first HTTP listener takes the requests.
    """

    def __init__(self, master: Master, samples: Path, model: str = "digits", count: int = 6) -> None:
        self._master = master
        self._samples = samples
        self._model = model
        self._count = count
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while not self._master.ready()[0]:  # noqa: ASYNC110 - readiness is a question, not an event
                await asyncio.sleep(_READY_POLL)
            address = self._address()
            samples = orjson.loads(await asyncio.to_thread(self._samples.read_bytes))[: self._count]
            samples.append(samples[0])  # the same question again: answered from the cache
            async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
                rows = [await self._ask(session, address, sample) for sample in samples]
            self._print(address, rows, samples[0])
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError) as error:
            log.error("the tour ended early: %r", error)

    def _address(self) -> str:
        plan, addresses = self._master.plan, self._master.addresses()
        if plan is None:
            raise ValueError("no plan is in force")
        return next(addresses[x.name] for x in plan.listeners if x.protocol == "http")

    async def _ask(self, session: aiohttp.ClientSession, address: str, sample: dict[str, Any]) -> Shown:
        url = f"http://{address}/v2/models/{self._model}/infer"
        begin = time.perf_counter()
        async with session.post(url, data=orjson.dumps(_request(sample))) as response:
            body = orjson.loads(await response.read())
        took = (time.perf_counter() - begin) * 1000
        if response.status != 200:
            raise ValueError(f"{response.status}: {body}")
        predicted = next(output["data"][0] for output in body["outputs"] if output["name"] == "label")
        said = response.headers.get("Cache-Status", "").removeprefix("tidegate; ").split("; ")
        cache = "; ".join(part for part in said if not part.startswith(("ttl=", "key=")))
        return Shown(sample["label"], predicted, response.headers.get("X-Tidegate-Endpoint", "-"), cache, took)

    def _print(self, address: str, rows: list[Shown], sample: dict[str, Any]) -> None:
        table = Table(title="Handwritten digits that the model has not seen", title_justify="left")
        for column in ("predicted", "true label", "endpoint", "cache", "latency"):
            table.add_column(column, justify="left" if column in ("endpoint", "cache") else "right")
        for row in rows:
            colour = "green" if row.predicted == row.label else "red"
            table.add_row(
                f"[{colour}]{row.predicted}[/]",
                str(row.label),
                Path(row.endpoint).name,
                row.cache,
                f"{row.milliseconds:.1f} ms",
            )
        console = Console()
        console.print(table)
        admin = self._master.config.admin.bind
        body = orjson.dumps(_request(sample)).decode()
        console.print(
            f"Try it:     curl -s http://{address}/v2/models/{self._model}/infer -d '{body}'",
            soft_wrap=True,
            markup=False,
        )
        console.print(f"Dashboard:  http://{admin}/      Metrics: http://{admin}/metrics", markup=False)
        console.print("Ctrl-C drains and stops.", markup=False)


def _request(sample: dict[str, Any]) -> dict[str, Any]:
    return {"inputs": [{"name": "image", "shape": [1, 64], "datatype": "FP32", "data": sample["image"]}]}
