"""Local transport: large tensors between real workers and real model servers, which die, are replaced, and are left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
import tritonclient.grpc
import tritonclient.http
from daemon import Daemon, alive, eventually, http_listener
from onnx import TensorProto, helper

from lb.wire import grpc_service_pb2 as wire

Start = Callable[..., Daemon]
INFER = "/inference.GRPCInferenceService/ModelInfer"
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
ROWS = 100_000  # of four FP32: 1.6 MB


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`twice`: its FP32 [N,4] input `x`, added to itself, as `y`."""
    root = tmp_path_factory.mktemp("local")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", 4)) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "twice", [x], [y])
    (root / "twice" / "1").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, root / "twice" / "1" / "model.onnx")
    return root


def config(models: Path, number: int = 1, **listener: Any) -> dict[str, Any]:
    return {
        "workers": 2,
        "listeners": {"web": http_listener({"name": "all", "pool": "twice"}, **listener)},
        "pools": {"twice": {"protocol": "oip", "serve": {"models": str(models), "min": number, "threads": 1}}},
    }


def tensor(seed: int, rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 4)).astype(np.float32)


def request(x: np.ndarray) -> bytes:
    made = wire.ModelInferRequest(model_name="twice")
    made.inputs.add(name="x", datatype="FP32", shape=x.shape)
    made.raw_input_contents.append(x.tobytes())
    body: bytes = made.SerializeToString()
    return body


TENSORS = [tensor(seed) for seed in range(3)]
REQUESTS = [request(x) for x in TENSORS]


def is_twice(answer: bytes, x: np.ndarray) -> bool:
    return list(wire.ModelInferResponse.FromString(answer).raw_output_contents) == [(x + x).tobytes()]


def counted(daemon: Daemon, name: str, direction: str = "") -> float:
    return sum(
        value
        for labels, value in daemon.metrics(f"tidegate_endpoint_local_{name}_total").items()
        if not direction or ("direction", direction) in labels
    )


def server_pids(daemon: Daemon) -> list[int]:
    return [r["pid"] for r in daemon.pool("twice")["managed"]["replicas"] if r["state"] == "ready"]


def two_servers(daemon: Daemon) -> list[int]:
    return eventually(lambda: p if len(p := server_pids(daemon)) == 2 else [], "two model servers")


def arenas(pid: int) -> int:
    """Mappings of arenas in a process."""
    return Path(f"/proc/{pid}/maps").read_text().count("tidegate-arena")


class Load:
    """Clients that infer in turns; `failures` are statuses, and `wrong` counts answers with other numbers."""

    def __init__(self) -> None:
        self.answers = 0
        self.wrong = 0
        self.failures: list[tuple[grpc.StatusCode, str]] = []

    async def until(self, more: int) -> None:
        target = self.answers + more
        async with asyncio.timeout(60):
            while self.answers < target:
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def load(port: int, clients: int = 4) -> AsyncIterator[Load]:
    running, stop = Load(), asyncio.Event()

    async def work(turn: int) -> None:
        options = [*UNLIMITED, ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            call = channel.unary_unary(INFER)
            while not stop.is_set():
                turn += 1
                try:
                    answer = await call(REQUESTS[turn % 3], timeout=30)
                except grpc.aio.AioRpcError as error:
                    running.failures.append((error.code(), error.details() or ""))
                    await asyncio.sleep(0.05)
                    continue
                running.wrong += not is_twice(answer, TENSORS[turn % 3])
                running.answers += 1

    tasks = [asyncio.create_task(work(number)) for number in range(clients)]
    try:
        yield running
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def test_large_tensors_of_all_clients_go_through_shared_memory(start: Start, models: Path) -> None:
    daemon = start(config(models))
    port = daemon.port()

    def ask() -> None:
        x = TENSORS[0]
        with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
            given = tritonclient.grpc.InferInput("x", x.shape, "FP32")
            given.set_data_from_numpy(x)
            for _ in range(4):
                assert np.array_equal(client.infer("twice", [given]).as_numpy("y"), x + x)
        with tritonclient.http.InferenceServerClient(f"127.0.0.1:{port}") as client:
            for binary in (True, False):
                given = tritonclient.http.InferInput("x", x.shape, "FP32")
                given.set_data_from_numpy(x, binary_data=binary)
                wanted = tritonclient.http.InferRequestedOutput("y", binary_data=binary)
                answer = client.infer("twice", [given], outputs=[wanted])
                assert np.array_equal(answer.as_numpy("y"), x + x)
        with grpc.insecure_channel(f"127.0.0.1:{port}", UNLIMITED) as channel:
            small = tensor(9, 3)
            assert is_twice(channel.unary_unary(INFER)(request(small), timeout=30), small)

    for _ in range(3):
        await asyncio.to_thread(ask)
    assert counted(daemon, "messages", "sent") >= 10  # the first of a connection may be sooner than the memory
    assert counted(daemon, "messages", "received") >= 10
    assert counted(daemon, "bytes", "sent") > 10 * TENSORS[0].nbytes
    assert counted(daemon, "full") == 0
    assert "messages of 64 KiB and more go through shared memory" in daemon.log
    (endpoint,) = daemon.pool("twice")["endpoints"]
    assert endpoint["local_transport"]["sent"] == counted(daemon, "messages", "sent")
    told = await asyncio.to_thread(daemon.command, "explain", "twice")
    assert "local transport" in told.stdout
    assert "no local transport" not in told.stdout


async def test_a_model_server_that_is_killed_costs_no_request_that_is_kept(start: Start, models: Path) -> None:
    """The body is kept for another attempt (`retry_buffer`), and what the dead server had of it is free again."""
    daemon = start(config(models, 2, retry_buffer="4MiB"))
    async with load(daemon.port()) as running:
        await running.until(30)
        for _ in range(2):
            pids = await asyncio.to_thread(two_servers, daemon)
            os.kill(pids[0], signal.SIGKILL)
            await running.until(30)

            def replaced(gone: int = pids[0]) -> bool:
                return len(now := server_pids(daemon)) == 2 and gone not in now

            await asyncio.to_thread(eventually, replaced, "the model server was not replaced")
        await running.until(30)
    assert (running.failures, running.wrong) == ([], 0)
    assert counted(daemon, "full") == 0
    for pid in daemon.worker_pids():
        assert arenas(pid) <= 4  # an own one and one of each server


async def test_one_that_is_killed_fails_what_cannot_be_sent_again(start: Start, models: Path) -> None:
    daemon = start(config(models, 2))
    async with load(daemon.port()) as running:
        await running.until(30)
        os.kill((await asyncio.to_thread(two_servers, daemon))[0], signal.SIGKILL)
        await running.until(50)
    assert running.wrong == 0
    assert {code for code, _ in running.failures} <= {grpc.StatusCode.UNAVAILABLE}
    assert len(running.failures) <= 4  # one of each client


async def test_reloads_and_new_model_servers_under_load(start: Start, models: Path) -> None:
    settings = config(models, 2)
    daemon = start(settings)
    async with load(daemon.port()) as running:
        await running.until(20)
        for turn in range(2):
            before = await asyncio.to_thread(two_servers, daemon)
            settings["pools"]["twice"]["serve"]["env"] = {"TURN": str(turn)}
            await asyncio.to_thread(daemon.reload, settings)

            def replaced(before: list[int] = before) -> bool:
                pids = server_pids(daemon)
                return len(pids) == 2 and not set(before) & set(pids) and not any(alive(pid) for pid in before)

            await asyncio.to_thread(eventually, replaced, "the model servers were not replaced")
            await running.until(20)
    assert (running.failures, running.wrong) == ([], 0)
    for pid in daemon.worker_pids():
        await asyncio.to_thread(eventually, lambda pid=pid: arenas(pid) <= 4, "memory of servers that are gone")


async def test_a_worker_that_is_killed_leaves_nothing_at_the_model_server(start: Start, models: Path) -> None:
    daemon = start(config(models))
    (server,) = server_pids(daemon)
    async with load(daemon.port()) as running:
        await running.until(20)
        for _ in range(4):
            await asyncio.to_thread(daemon.kill_worker)
            await running.until(10)
    assert running.wrong == 0
    await asyncio.to_thread(eventually, lambda: arenas(server) <= 4, "memory of workers that are gone")
    assert server_pids(daemon) == [server]


async def test_calls_that_are_left_give_their_memory_back(start: Start, models: Path) -> None:
    """More of them than the memory has room for: cancelled, and late."""
    daemon = start(config(models))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{daemon.port()}", UNLIMITED) as channel:
        call = channel.unary_unary(INFER)
        assert is_twice(await call(REQUESTS[0], timeout=30), TENSORS[0])
        for turn in range(120):
            one = call(REQUESTS[turn % 3], timeout=0.004 if turn % 2 else 30)
            await asyncio.sleep(0.001 * (turn % 7))
            one.cancel()
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
                await one
        assert counted(daemon, "full") == 0
        before = counted(daemon, "messages", "sent")
        for turn in range(60):
            assert is_twice(await call(REQUESTS[turn % 3], timeout=30), TENSORS[turn % 3])
    assert counted(daemon, "full") == 0
    assert counted(daemon, "messages", "sent") >= before + 60


async def test_more_than_the_memory_holds_goes_through_the_socket(start: Start, models: Path) -> None:
    daemon = start(config(models))
    x = tensor(5, 1_000_000)  # 16 MB: three fit
    body = request(x)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{daemon.port()}", UNLIMITED) as channel:
        call = channel.unary_unary(INFER)
        for _ in range(3):
            answers = await asyncio.gather(*(call(body, timeout=60) for _ in range(8)))
            assert all(is_twice(answer, x) for answer in answers)
    assert counted(daemon, "full") >= 1


async def test_tcp_has_none(start: Start, models: Path) -> None:
    settings = config(models)
    settings["pools"]["twice"]["serve"]["listen"] = "tcp"
    daemon = start(settings)
    async with load(daemon.port()) as running:
        await running.until(10)
    assert (running.failures, running.wrong) == ([], 0)
    assert counted(daemon, "messages") == 0


@pytest.mark.parametrize("bare", [False, True])
async def test_streams_are_read_by_clients_of_either_kind(start: Start, models: Path, bare: bool) -> None:
    """Large and small messages of a stream, in the form that the client reads, however they come."""
    made = config(models)
    for listener in made["listeners"].values():
        for each in listener["routes"]:
            each["stream_messages"] = "mlserver" if bare else "triton"
    daemon = start(made)
    eventually(lambda: len(server_pids(daemon)) == 1, "the model server")
    kind = wire.ModelInferResponse if bare else wire.ModelStreamInferResponse
    sizes = [ROWS, 1, ROWS, ROWS, 2]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{daemon.port()}", options=UNLIMITED) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
        for seed, rows in enumerate(sizes):
            x = tensor(seed, rows)
            await call.write(request(x))
            found = kind.FromString(await call.read())
            answer = found if bare else found.infer_response
            assert is_twice(answer.SerializeToString(), x)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
