"""Clients that submit jobs of several kinds, and what must come of each; the receiver of their webhooks."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import aiohttp
from aiohttp import web
from journal_endpoint import answer_to
from traffic import DIGITS_INFER, digit_samples

SAMPLES = digit_samples()
SECRET = b"k" * 32
DEADLINE = 2  # seconds that jobs have which are never done
# Of twenty jobs: how many of each kind.
KINDS = {"plain": 11, "repeated": 2, "refused": 1, "dead": 1, "cancelled": 2, "inference": 3}
ENDS = {"plain": "done", "repeated": "done", "inference": "done", "refused": "failed", "dead": "dead"}


@dataclass
class Accepted:
    """A job that was answered with 202. `cancelled` is what the cancellation of a job was told: None without one."""

    name: str
    kind: str
    sample: int
    place: str
    told: bool
    cancelled: bool | None = None

    @property
    def id(self) -> str:
        return self.place.rpartition("/")[2]

    @property
    def target(self) -> str:
        return DIGITS_INFER if self.kind == "inference" else f"/work/{self.kind}/{self.name}"

    @property
    def body(self) -> bytes:
        if self.kind != "inference":
            return self.name.encode() * 20
        image = SAMPLES[self.sample]["image"]
        inputs = [{"name": "image", "datatype": "FP32", "shape": [1, 64], "data": image}]
        return json.dumps({"id": self.name, "inputs": inputs}).encode()

    @property
    def end(self) -> str:
        if self.kind == "cancelled":
            return "cancelled" if self.cancelled else "done"
        return ENDS[self.kind]


class Receiver:
    """Takes webhooks with good signatures. While it is `busy` it answers the first telling of every tenth job with
    503."""

    def __init__(self) -> None:
        self.told: defaultdict[str, list[str]] = defaultdict(list)  # states by the job's id, of those taken
        self.forged = 0
        self.busy = True
        self._asked: Counter[str] = Counter()
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/hooks", self._receive)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/hooks"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        body, head = await request.read(), request.headers
        job = head["webhook-id"]
        content = f"{job}.{head['webhook-timestamp']}.".encode() + body
        signature = base64.b64encode(hmac.digest(SECRET, content, hashlib.sha256)).decode()
        document = json.loads(body)
        if head["webhook-signature"] != f"v1,{signature}" or document["id"] != job:
            self.forged += 1
            return web.Response(status=400)
        self._asked[job] += 1
        if self.busy and self._asked[job] == 1 and int(job, 16) % 10 == 0:
            return web.Response(status=503)
        self.told[job].append(document["state"])
        return web.Response(status=204)


class Submitters:
    """Clients that submit one job after another, each until it is accepted, at any of `bases`. Belongs to the running
    loop."""

    def __init__(self, client: aiohttp.ClientSession, bases: list[str], webhook: str, seed: int) -> None:
        self.accepted: list[Accepted] = []
        self.bases = bases
        self._client = client
        self._webhook = webhook
        self._dice = random.Random(seed)
        self._numbers = count()
        self._going = True
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, clients: int) -> None:
        self._tasks = [asyncio.create_task(self._run()) for _ in range(clients)]

    async def stop(self) -> None:
        """Once each has an answer for what it was submitting."""
        self._going = False
        await asyncio.gather(*self._tasks)

    async def wait_for_more(self, number: int) -> None:
        """Until so many further jobs are accepted."""
        until = len(self.accepted) + number
        async with asyncio.timeout(120):
            while len(self.accepted) < until:
                await asyncio.sleep(0.01)
                for task in self._tasks:
                    if task.done():
                        task.result()

    async def _run(self) -> None:
        kinds = list(KINDS)
        while self._going:
            kind = self._dice.choices(kinds, list(KINDS.values()))[0]
            told = self._dice.random() < 0.3
            job = Accepted(f"job-{next(self._numbers)}", kind, self._dice.randrange(len(SAMPLES)), "", told)
            job.place = await self._submit(job)
            if kind == "cancelled":
                await asyncio.sleep(self._dice.uniform(0, 0.5))
                job.cancelled = await self._cancel(job)
            self.accepted.append(job)

    async def _submit(self, job: Accepted) -> str:
        fields = {"Prefer": "respond-async", "Idempotency-Key": job.name}
        if job.told:
            fields["X-Tidegate-Webhook"] = self._webhook
        if job.kind == "dead":
            fields["X-Tidegate-Deadline"] = f"{DEADLINE}s"
        for base in self._again():
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self._client.post(base + job.target, data=job.body, headers=fields) as answer:
                    if answer.status == 202:
                        return answer.headers["Location"]
                    if "Content-Location" in answer.headers:  # it was accepted before, and is over
                        return answer.headers["Content-Location"].removesuffix("/result")
                    assert answer.status in (429, 502, 503, 504), (answer.status, await answer.read())
            await asyncio.sleep(0.02)
        raise AssertionError("unreachable")

    async def _cancel(self, job: Accepted) -> bool:
        for base in self._again():
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self._client.delete(base + job.place) as answer:
                    if answer.status in (200, 409):
                        return bool((await answer.json())["state"] == "cancelled")
                    assert answer.status in (502, 503, 504), (answer.status, await answer.read())
            await asyncio.sleep(0.02)
        raise AssertionError("unreachable")

    def _again(self) -> Iterator[str]:
        while True:
            yield self._dice.choice(self.bases)


async def check(client: aiohttp.ClientSession, base: str, job: Accepted, expected: list[dict[str, Any]]) -> None:
    """The job has the end that it must have, and its own answer; `expected` are the model's outputs by sample."""
    async with client.get(base + job.place) as answer:
        document = await answer.json()
    assert (document["state"], document["id"]) == (job.end, job.id), (job, document)
    async with client.get(f"{base}{job.place}/result") as answer:
        status, body = answer.status, await answer.read()
    if job.end in ("dead", "cancelled"):
        assert status == 410, (job, status)
    elif job.kind == "inference":
        found = json.loads(body)
        assert (status, found["id"], found["outputs"]) == (200, job.name, expected[job.sample]), (job, body)
    else:
        assert (status, body) == (422 if job.end == "failed" else 200, answer_to(job.target, job.body)), (job, body)
