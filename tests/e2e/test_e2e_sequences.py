"""Sequences keep their endpoint from start to end: through workers, connections, protocols, reloads and drains."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
import tritonclient.grpc as by_grpc
import tritonclient.http as by_http
from daemon import Daemon, eventually, http_listener, route, worker_of
from onnx import TensorProto, helper
from sequence_servers import SequenceServer, document, message
from test_e2e_model_servers import ready_replicas
from traffic import Client, request
from tritonclient.utils import InferenceServerException

from lb.wire import grpc_service_pb2 as wire

Start = Callable[..., Daemon]
INFER = "/inference.GRPCInferenceService/ModelInfer"
SEQUENCES = 64
STEPS = 12


@pytest.fixture
async def servers() -> AsyncIterator[Callable[[], Any]]:
    """`await servers()` gives a stateful model server."""
    made: list[SequenceServer] = []

    async def make() -> SequenceServer:
        one = SequenceServer()
        await one.start()
        made.append(one)
        return one

    yield make
    for one in made:
        await one.server.stop(None)


def config(chosen: list[SequenceServer], workers: int = 3, **pool: Any) -> dict[str, Any]:
    settings = {"protocol": "oip", "endpoints": [s.address for s in chosen], **pool}
    return {
        "workers": workers,
        "listeners": {"web": http_listener(route("/", "models"))},
        "pools": {"models": settings},
    }


class Failed(Exception):
    """`status` is a name of gRPC's, or a number of HTTP's."""

    def __init__(self, status: Any, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class Rest:
    """Asks by HTTP/1.1, over several connections in turn."""

    def __init__(self, clients: list[Client]) -> None:
        self.clients = clients
        self.locks = [asyncio.Lock() for _ in clients]
        self.turn = 0

    async def ask(self, key: int | str, start: bool = False, end: bool = False) -> int:
        self.turn = (self.turn + 1) % len(self.clients)
        body = json.dumps(document(key, start, end)).encode()
        async with self.locks[turn := self.turn]:
            answer = await self.clients[turn].ask(request("POST", "/v2/models/m/infer", body))
        if answer.status != 200:
            raise Failed(answer.status, answer.body.decode())
        return int(json.loads(answer.body)["outputs"][0]["data"][0])


class Grpc:
    """Asks by gRPC, over several channels in turn."""

    def __init__(self, port: int, channels: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) for _ in range(channels)]
        self.turn = 0

    async def ask(self, key: int | str, start: bool = False, end: bool = False, size: int = 4) -> int:
        self.turn = (self.turn + 1) % len(self.channels)
        call = self.channels[self.turn].unary_unary(INFER)
        try:
            data = await call(message(key, start, end, size).SerializeToString(), timeout=30)
        except grpc.aio.AioRpcError as error:
            raise Failed(error.code().name, error.details() or "") from None
        return int.from_bytes(wire.ModelInferResponse.FromString(data).raw_output_contents[0], "little")

    async def close(self) -> None:
        for channel in self.channels:
            await channel.close()


async def spread(daemon: Daemon, port: int) -> list[Client]:
    """Connections to more than one worker. Who is idle takes them all, so each is kept busy while others are made."""
    clients: list[Client] = []
    pids = daemon.worker_pids()
    for _ in range(20):
        made = [await client for client in [Client(port).connect() for _ in range(12)]]
        clients += made
        body = json.dumps(document(0)).encode()
        await asyncio.gather(*(c.ask(request("POST", "/v2/models/m/infer", body)) for c in clients))
        if len({worker_of(pids, c.local_port) for c in clients}) > 1:
            return clients
        clients += await asyncio.gather(*(Client(port).connect() for _ in range(24)))
    raise AssertionError("all connections came to one worker")


async def test_no_open_sequence_moves_while_endpoints_come_and_go(start: Start, servers: Callable[[], Any]) -> None:
    fleet = [await servers() for _ in range(4)]
    daemon = start(config(fleet))
    port = daemon.port()
    rest = Rest(await spread(daemon, port))
    remote = Grpc(port, 8)

    reached = [0] * SEQUENCES
    gates = [asyncio.Event() for _ in range(STEPS)]

    async def sequence(i: int) -> None:
        # Every sequence goes on over both protocols; half have ids that are strings.
        key: int | str = i + 1 if i % 2 else f"s-{i}"
        for step in range(STEPS):
            await gates[step].wait()
            side = rest if (i + step) % 3 else remote
            assert await side.ask(key, step == 0, step == STEPS - 1) == step + 1
            reached[i] = step + 1

    async def until(step: int) -> None:
        gates[step].set()
        async with asyncio.timeout(60):
            while min(reached) <= step and not any(task.done() and task.exception() for task in tasks):
                await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(sequence(i)) for i in range(SEQUENCES)]
    await until(0)
    await until(1)
    homes = {key: server for server in fleet for key in server.open}
    assert len(homes) == SEQUENCES
    assert all(server.open for server in fleet)

    drained, removed = fleet[0], fleet[1]
    body = json.dumps({"pool": "models", "address": drained.address, "admin": "drain"})
    assert (await asyncio.to_thread(operate, daemon, body)) == 200
    await until(2)

    added = await servers()
    fleet.append(added)
    assert (await asyncio.to_thread(daemon.reload, config(fleet)))["ok"]  # one comes
    await until(3)
    kept = [server for server in fleet if server is not removed]
    assert (await asyncio.to_thread(daemon.reload, config(kept)))["ok"]  # one goes
    await until(4)

    victim = daemon.worker_pids()[0]
    os.kill(victim, signal.SIGKILL)  # a new worker has to know of them all, too
    await asyncio.to_thread(eventually, lambda: victim not in daemon.worker_pids(), "a new worker")
    await asyncio.to_thread(eventually, lambda: daemon.admin("/readyz")[0] == 200, "readiness")
    rest.clients = await spread(daemon, port)
    rest.locks = [asyncio.Lock() for _ in rest.clients]
    fresh, old = Grpc(port, 8), remote.channels
    remote.channels = fresh.channels

    # New ones go to those that take them, the added one among them.
    for i in range(40):
        assert await rest.ask(f"late-{i}", True) == 1
    assert added.begun
    assert not [key for key in (*drained.begun, *removed.begun) if key.startswith("late-")]

    row = next(e for e in daemon.pool("models")["endpoints"] if e["address"] == drained.address)
    assert row["sequences"] == len(drained.open) > 0
    assert [e["address"] for e in daemon.pool("models")["leaving"]] == [removed.address]

    for step in range(5, STEPS):
        await until(step)
    await asyncio.gather(*tasks)

    assert all(not server.broken for server in fleet)
    for key, server in homes.items():
        assert key in server.ended
        assert sum(key in other.begun for other in fleet) == 1
    metrics = daemon.metrics("tidegate_sequences_opened_total")
    assert sum(metrics.values()) == SEQUENCES + 40
    assert sum(daemon.metrics("tidegate_sequences_lost_total").values()) == 0
    # What was removed is forgotten once it has none left.
    await asyncio.to_thread(eventually, lambda: not daemon.pool("models")["leaving"], "the end of what was removed")
    for channel in old:
        await channel.close()
    await fresh.close()


def operate(daemon: Daemon, body: str) -> int:
    connection = http.client.HTTPConnection("localhost", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(daemon.socket)
    connection.request("POST", "/api/v1/endpoint", body)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


async def test_a_dead_endpoints_sequences_are_lost_and_say_so(start: Start, servers: Callable[[], Any]) -> None:
    fleet = [await servers() for _ in range(2)]
    daemon = start(config(fleet, workers=2))
    port = daemon.port()
    rest, remote = Rest([await Client(port).connect() for _ in range(4)]), Grpc(port, 2)
    keys = [f"k{i}" for i in range(12)]
    for key in keys:
        assert await rest.ask(key, True) == 1
    dead, alive = fleet
    assert dead.open
    assert alive.open
    gone = list(dead.open)
    await dead.server.stop(None)

    with pytest.raises(Failed, match="begin the sequence anew") as first:
        await rest.ask(gone[0])
    assert first.value.status == 409
    with pytest.raises(Failed, match="begin the sequence anew") as second:
        await remote.ask(gone[1])
    assert second.value.status == "ABORTED"
    for key in gone[:2]:  # once told, it is no longer open
        with pytest.raises(Failed, match="not open"):
            await rest.ask(key)
    for key in alive.open:
        assert await remote.ask(key) == 2
    assert not alive.broken
    await asyncio.to_thread(
        eventually, lambda: sum(daemon.metrics("tidegate_sequences_lost_total").values()) == 2, "what was lost"
    )
    await remote.close()


async def test_sequences_begin_at_the_others_where_an_endpoint_takes_no_connection(
    start: Start, servers: Callable[[], Any]
) -> None:
    fleet = [await servers() for _ in range(2)]
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        endpoints = [f"127.0.0.1:{dead.getsockname()[1]}", *[s.address for s in fleet]]
        daemon = start(config(fleet, workers=2, endpoints=endpoints, policy="round_robin"))
        port = daemon.port()
        rest, remote = Rest([await Client(port).connect() for _ in range(4)]), Grpc(port, 4)

        async def stream(key: str) -> list[str]:
            call = remote.channels[len(key) % 4].stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
            requests = [message(key, True).SerializeToString(), message(key).SerializeToString()]
            found = [wire.ModelStreamInferResponse.FromString(data) async for data in call(iter(requests), timeout=30)]
            return [one.infer_response.id for one in found]

        for i in range(12):
            assert await rest.ask(f"rest-{i}", True) == 1
            assert await remote.ask(f"grpc-{i}", True, size=300_000 if i % 2 else 4) == 1
            assert await stream(f"stream-{i}") == ["1", "2"]
        for step in (2, 3):
            for i in range(12):
                assert await remote.ask(f"rest-{i}", end=step == 3) == step
                assert await rest.ask(f"grpc-{i}", end=step == 3) == step
                assert await rest.ask(f"stream-{i}", end=step == 3) == step + 1
        await remote.close()
        rows = {row["address"]: row for row in daemon.pool("models")["endpoints"]}
        assert [rows[address]["sequences"] for address in endpoints] == [0, 0, 0]
        assert daemon.metrics("tidegate_endpoint_connect_errors_total")
    assert all(server.begun and not server.broken for server in fleet)
    assert sum(daemon.metrics("tidegate_sequences_opened_total").values()) == 36
    assert sum(daemon.metrics("tidegate_sequences_lost_total").values()) == 0


async def test_an_unknown_sequence_is_refused_and_an_idle_one_ends(start: Start, servers: Callable[[], Any]) -> None:
    fleet = [await servers() for _ in range(2)]
    daemon = start(config(fleet, workers=2, affinity={"sequence": {"idle_timeout": "500ms"}}))
    rest, remote = Rest([await Client(daemon.port()).connect()]), Grpc(daemon.port(), 1)
    with pytest.raises(Failed, match="not open"):
        await rest.ask(7)
    assert await rest.ask(7, True) == 1
    for count in (2, 3, 4):
        await asyncio.sleep(0.3)  # each request keeps it open
        assert await remote.ask(7) == count
    await asyncio.sleep(0.9)
    with pytest.raises(Failed, match="not open"):
        await remote.ask(7)
    assert await remote.ask(0) == 0  # what belongs to none goes anywhere
    assert await remote.ask(8, True, True) == 1  # begun and ended at once
    with pytest.raises(Failed, match="not open"):
        await rest.ask(8)
    assert all(not server.broken for server in fleet)
    await remote.close()


async def test_a_number_and_its_text_are_two_sequences(start: Start, servers: Callable[[], Any]) -> None:
    daemon = start(config([await servers()], workers=1))
    rest, calls = Rest([await Client(daemon.port()).connect()]), Grpc(daemon.port(), 1)
    for one, other in ((rest, rest), (calls, calls), (rest, calls), (calls, rest)):
        await one.ask(7, start=True)
        assert await other.ask(7) == 2
        for asked in (one, other):
            with pytest.raises(Failed, match="the sequence is not open"):
                await asked.ask("7")
        assert await one.ask(7, end=True) == 3
    await calls.close()


async def test_large_messages_and_streams_keep_their_endpoint(start: Start, servers: Callable[[], Any]) -> None:
    fleet = [await servers() for _ in range(3)]
    daemon = start(config(fleet, workers=2))
    remote = Grpc(daemon.port(), 6)
    for key in range(1, 7):
        assert await remote.ask(key, True, size=300_000) == 1
    for step in (2, 3):
        for key in range(1, 7):
            assert await remote.ask(key, size=300_000) == step

    async def stream(key: int) -> list[str]:
        call = remote.channels[key % 6].stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")

        async def steps() -> AsyncIterator[bytes]:
            for _ in range(2):
                yield message(key).SerializeToString()
            yield message(key, end=True).SerializeToString()

        return [
            wire.ModelStreamInferResponse.FromString(data).infer_response.id async for data in call(steps(), timeout=30)
        ]

    assert [await stream(key) for key in range(1, 7)] == [["4", "5", "6"]] * 6
    assert all(not server.broken for server in fleet)
    await remote.close()


async def test_a_request_of_a_sequence_waits_for_its_own_endpoint(start: Start, servers: Callable[[], Any]) -> None:
    fleet = [await servers() for _ in range(2)]
    running = {server.address: 0 for server in fleet}
    peak = dict(running)
    slow = SequenceServer.step

    for server in fleet:

        async def infer(data: bytes, context: Any, server: SequenceServer = server) -> bytes:
            at = server.address
            running[at] += 1
            peak[at] = max(peak[at], running[at])
            await asyncio.sleep(0.02)
            running[at] -= 1
            count = slow(server, wire.ModelInferRequest.FromString(data))
            answer = wire.ModelInferResponse(model_name="m")
            answer.outputs.add(name="count", datatype="INT32", shape=[1])
            answer.raw_output_contents.append(max(count, 0).to_bytes(4, "little"))
            return answer.SerializeToString()

        server.behave = infer
    daemon = start(config(fleet, max_in_flight=1))
    port = daemon.port()
    rest, remote = Rest([await Client(port).connect() for _ in range(24)]), Grpc(port, 6)
    for key in range(1, 9):
        assert await rest.ask(key, True) == 1
    stop = asyncio.Event()
    others = 0

    async def plain() -> None:
        nonlocal others
        while not stop.is_set():
            await remote.ask(0)
            others += 1

    load = [asyncio.create_task(plain()) for _ in range(12)]

    async def go_on(key: int) -> None:
        for step in range(2, 8):
            assert await rest.ask(key) == step

    async with asyncio.timeout(60):
        await asyncio.gather(*(go_on(key) for key in range(1, 9)))
    before = others
    async with asyncio.timeout(20):
        while others < before + 20:
            await asyncio.sleep(0.01)
    stop.set()
    await asyncio.gather(*load)
    assert set(peak.values()) == {1}
    assert all(not server.broken for server in fleet)
    await remote.close()


@pytest.mark.parametrize("module", [by_http, by_grpc])
def test_state_that_the_model_servers_keep(start: Start, tmp_path: Path, module: Any) -> None:
    """Triton's clients on a pool of two of our own model servers, with a cache in front."""
    models = tmp_path / "models"
    (models / "total" / "1").mkdir(parents=True)
    nodes = [helper.make_node("Add", ["x", "before"], ["after"]), helper.make_node("Identity", ["after"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "total",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1]) for name in ("x", "before")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1]) for name in ("y", "after")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, models / "total" / "1" / "model.onnx")
    (models / "total" / "config.pbtxt").write_text(
        """max_batch_size: 8 sequence_batching {
          max_sequence_idle_microseconds: 30000000
          state [{input_name: "before" output_name: "after"}]
        }"""
    )
    serve = {"models": str(models), "min": 2, "max": 2, "threads": 1, "drain_timeout": "10s"}
    daemon = start({
        "workers": 2,
        "cache": {"size": "16MiB"},
        "listeners": {"web": http_listener(route("/", "digits"))},
        "pools": {"digits": {"protocol": "oip", "serve": serve}},
    })  # fmt: skip
    eventually(lambda: len(ready_replicas(daemon)) == 2, "both model servers")
    clients = [module.InferenceServerClient(f"127.0.0.1:{daemon.port()}") for _ in range(4)]
    one = module.InferInput("x", [1, 1], "FP32")
    one.set_data_from_numpy(np.ones((1, 1), np.float32))
    for at in range(8):
        for number in range(1, 41):  # equal requests of each sequence: a cache would answer them
            name: int | str = number if number % 2 else f"s{number}"
            client = clients[(at + number) % 4]
            found = client.infer("total", [one], sequence_id=name, sequence_start=at == 0, sequence_end=at == 7)
            assert found.as_numpy("y").item() == at + 1, name
    with pytest.raises(InferenceServerException, match=r"START flag|not open"):
        clients[0].infer("total", [one], sequence_id=1)
    counted = client.get_inference_statistics("total", **({"as_json": True} if module is by_grpc else {}))
    assert int(counted["model_stats"][0]["inference_count"]) == 320
    config = client.get_model_config("total", **({"as_json": True} if module is by_grpc else {}))
    assert config.get("config", config)["sequence_batching"]["state"][0]["output_name"] == "after"
