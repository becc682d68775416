"""Sequences with state that the server keeps: by real clients, each answer held against bare ONNX Runtime."""

from __future__ import annotations

import asyncio
import json
import queue
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import backend_models
import grpc
import numpy as np
import pytest
import sequence_models
import tritonclient.grpc as by_grpc
import tritonclient.http as by_http
from backend_process import Backend, infer_request, until
from sequence_models import HIDDEN, IN
from tritonclient.utils import InferenceServerException

from backend.runtime import onnxruntime
from lb.wire import grpc_service_pb2 as wire
from lb.wire.services import INFERENCE, Stub

CLIENTS = {"http": by_http, "grpc": by_grpc}
START = "must specify the START flag on the first request of the sequence"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for make in (
        sequence_models.accumulator, sequence_models.controls, sequence_models.lstm, sequence_models.growing,
        sequence_models.lookup, backend_models.slow,
    ):  # fmt: skip
        make(root)
    shutil.copytree(root / "slow", root / "slow_steps")
    (root / "slow_steps" / "config.pbtxt").write_text(
        "sequence_batching { max_sequence_idle_microseconds: 60000000 direct {} }"
    )
    sequence_models.accumulator(root, "brief", "max_sequence_idle_microseconds: 100000")
    sequence_models.accumulator(root, "patient", "max_sequence_idle_microseconds: 60000000")
    return root


@pytest.fixture(scope="module")
def stateful(folder: Path) -> Iterator[Backend]:
    with Backend(folder, "--threads", "1", "--concurrency", "2", "--max-sequences", "300") as backend:
        yield backend.wait_ready()


@pytest.fixture(params=CLIENTS)
def module(request: pytest.FixtureRequest) -> Any:
    return CLIENTS[request.param]


@pytest.fixture
def client(module: Any, stateful: Backend) -> Iterator[Any]:
    with module.InferenceServerClient(stateful.targets[0]) as client:
        yield client


def tensor(module: Any, name: str, array: np.ndarray, datatype: str = "FP32") -> Any:
    made = module.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def step(client: Any, module: Any, model: str, values: list[float], **place: Any) -> np.ndarray:
    found = client.infer(model, [tensor(module, "x", np.array([values], np.float32))], **place)
    return found.as_numpy("y")[0]


@pytest.mark.parametrize("name", [41, "of-text", (1 << 63) - 1])
def test_a_sum(client: Any, module: Any, name: int | str) -> None:
    steps = [[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]
    got = [
        step(client, module, "total", values, sequence_id=name, sequence_start=at == 0, sequence_end=at == 2)
        for at, values in enumerate(steps)
    ]
    np.testing.assert_array_equal(got, np.cumsum(steps, axis=0))
    with pytest.raises(InferenceServerException, match=f"sequence {name} to model 'total' {START}"):
        step(client, module, "total", [1, 1], sequence_id=name)


def test_a_number_and_its_text_are_two_sequences(client: Any, module: Any) -> None:
    step(client, module, "patient", [1, 0], sequence_id=7, sequence_start=True)
    step(client, module, "patient", [2, 0], sequence_id="7", sequence_start=True)
    assert step(client, module, "patient", [10, 0], sequence_id=7, sequence_end=True)[0] == 11
    assert step(client, module, "patient", [10, 0], sequence_id="7", sequence_end=True)[0] == 12


def test_a_second_start_begins_anew(client: Any, module: Any) -> None:
    step(client, module, "patient", [1, 1], sequence_id=8, sequence_start=True)
    step(client, module, "patient", [2, 2], sequence_id=8, sequence_start=True)
    assert step(client, module, "patient", [4, 4], sequence_id=8, sequence_end=True)[0] == 6


def test_what_is_refused(client: Any, module: Any, stateful: Backend) -> None:
    with pytest.raises(InferenceServerException, match="must specify a non-zero or non-empty correlation ID"):
        step(client, module, "total", [1, 1])
    with pytest.raises(InferenceServerException, match=START):
        step(client, module, "total", [1, 1], sequence_id=9)
    with pytest.raises(InferenceServerException, match=r"expected shape \[1,2\], got \[2,2\]"):
        client.infer("total", [tensor(module, "x", np.ones((2, 2), np.float32))], sequence_id=9, sequence_start=True)
    # Inputs that the server fills in are no client's.
    with pytest.raises(InferenceServerException, match="the model has no input 'before'"):
        client.infer("total", [
            tensor(module, "x", np.ones((1, 2), np.float32)), tensor(module, "before", np.ones((1, 2), np.float32))
        ], sequence_id=9, sequence_start=True)  # fmt: skip


def test_controls(client: Any, module: Any) -> None:
    rows = []
    for at in range(3):
        found = client.infer(
            "controls",
            [tensor(module, "x", np.zeros((1, 1), np.float32))],
            sequence_id=(1 << 40) + 3,
            sequence_start=at == 0,
            sequence_end=at == 2,
        )
        rows.append([found.as_numpy(f"{name}_out").item() for name in ("start", "ready", "end", "id")])
    assert rows == [[at == 0, 2.5, 8 if at == 2 else 7, (1 << 40) + 3] for at in range(3)]
    with pytest.raises(InferenceServerException, match="expected a number up to 18446744073709551615"):
        client.infer(
            "controls",
            [tensor(module, "x", np.zeros((1, 1), np.float32))],
            sequence_id="text",
            sequence_start=True,
        )


def test_a_sequence_that_rests_too_long_ends(client: Any, module: Any) -> None:
    step(client, module, "brief", [1, 1], sequence_id=10, sequence_start=True)
    assert step(client, module, "brief", [1, 1], sequence_id=10)[0] == 2
    time.sleep(0.3)
    with pytest.raises(InferenceServerException, match=START):
        step(client, module, "brief", [1, 1], sequence_id=10)


def test_a_state_that_grows(client: Any, module: Any) -> None:
    got = []
    for at in range(20):
        found = client.infer(
            "growing", [tensor(module, "x", np.array([at], np.float32))], sequence_id=11, sequence_start=at == 0
        )
        got = found.as_numpy("y").tolist()
    assert got == list(range(20))


def test_a_refused_inference_leaves_the_state(client: Any, module: Any) -> None:
    def add(index: int, **place: Any) -> float:
        given = [tensor(module, "index", np.array([[index]], np.int64), "INT64")]
        return float(client.infer("lookup", given, sequence_id=12, **place).as_numpy("t").item())

    assert add(1, sequence_start=True) == 10
    with pytest.raises(InferenceServerException, match="refuses the input"):
        add(5)
    assert add(0) == 11
    assert add(1, sequence_end=True) == 21


def bare_lstm(folder: Path) -> Any:
    return onnxruntime.InferenceSession(folder / "lstm" / "1" / "model.onnx", providers=["CPUExecutionProvider"])


class Expected:
    """The steps of one sequence on bare ONNX Runtime."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._h = sequence_models.first_h()[None]
        self._c = np.zeros((1, HIDDEN), np.float32)

    def step(self, x: np.ndarray) -> np.ndarray:
        y, self._h, self._c = self._session.run(None, {"x": x, "h": self._h, "c": self._c})
        return y


def steps_of(random: np.random.Generator, count: int) -> list[np.ndarray]:
    return [random.standard_normal((1, IN)).astype(np.float32) for _ in range(count)]


def lstm_request(number: int, at: int, steps: list[np.ndarray], typed: bool) -> Any:
    request = infer_request("lstm", ("x", "FP32", steps[at]), id=f"{number}/{at}")
    if typed:  # which Python reads
        del request.raw_input_contents[:]
        request.inputs[0].contents.fp32_contents.extend(steps[at].reshape(-1).tolist())
    if number % 2:
        request.parameters["sequence_id"].int64_param = number
    else:
        request.parameters["sequence_id"].string_param = f"s{number}"
    request.parameters["sequence_start"].bool_param = at == 0
    request.parameters["sequence_end"].bool_param = at == len(steps) - 1
    return request


async def test_hundreds_of_sequences_interleaved(folder: Path, stateful: Backend) -> None:
    """Unary calls, one after another in each sequence, all sequences at once."""
    bare = bare_lstm(folder)
    async with grpc.aio.insecure_channel(stateful.targets[0]) as channel:
        stub = Stub(channel, INFERENCE)

        async def sequence(number: int) -> None:
            random = np.random.default_rng(number)
            steps, expected = steps_of(random, int(random.integers(1, 12))), Expected(bare)
            for at, x in enumerate(steps):
                answer = await stub.ModelInfer(lstm_request(number, at, steps, number % 5 == 0))
                assert [output.name for output in answer.outputs] == ["y"]
                got = np.frombuffer(answer.raw_output_contents[0], np.float32)[None]
                np.testing.assert_allclose(got, expected.step(x), rtol=1e-4, atol=1e-6)

        await asyncio.gather(*(sequence(number) for number in range(1000, 1300)))
        statistics = await stub.ModelStatistics(wire.ModelStatisticsRequest(name="lstm"))
    counted = statistics.model_stats[0]
    assert counted.execution_count < counted.inference_count  # some ran together


async def test_sequences_in_one_stream(folder: Path, stateful: Backend) -> None:
    """All steps of all sequences are sent without waiting; each sequence runs in its order."""
    bare = bare_lstm(folder)
    random = np.random.default_rng(3)
    sequences = {number: steps_of(random, int(random.integers(1, 9))) for number in range(2000, 2150)}
    turns = [number for number, steps in sequences.items() for _ in steps]
    random.shuffle(turns)
    at = dict.fromkeys(sequences, 0)
    requests, expected = [], []
    references = {number: Expected(bare) for number in sequences}
    for number in turns:
        steps = sequences[number]
        requests.append(lstm_request(number, at[number], steps, False))
        expected.append(references[number].step(steps[at[number]]))
        at[number] += 1
    async with grpc.aio.insecure_channel(stateful.targets[0]) as channel:
        stream = Stub(channel, INFERENCE).ModelStreamInfer(iter(requests))
        answers = [answer async for answer in stream]
    assert [answer.error_message for answer in answers] == [""] * len(requests)
    for request, answer, want in zip(requests, answers, expected, strict=True):
        assert answer.infer_response.id == request.id
        got = np.frombuffer(answer.infer_response.raw_output_contents[0], np.float32)[None]
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_sequences_over_rest_as_json(folder: Path, stateful: Backend) -> None:
    bare = bare_lstm(folder)
    random = np.random.default_rng(4)
    sequences = [(steps_of(random, 6), Expected(bare)) for _ in range(20)]
    for at in range(6):
        for number, (steps, expected) in enumerate(sequences):
            body = {
                "parameters": {"sequence_id": 3000 + number, "sequence_start": at == 0, "sequence_end": at == 5},
                "inputs": [{"name": "x", "shape": [1, IN], "datatype": "FP32", "data": steps[at].tolist()}],
            }
            request = urllib.request.Request(
                f"http://{stateful.targets[0]}/v2/models/lstm/infer", json.dumps(body).encode()
            )
            answer = json.load(urllib.request.urlopen(request, timeout=30))
            np.testing.assert_allclose([answer["outputs"][0]["data"]], expected.step(steps[at]), rtol=1e-4, atol=1e-6)


def test_a_stream_of_tritonclient(stateful: Backend) -> None:
    with by_grpc.InferenceServerClient(stateful.targets[0]) as client:
        done: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: done.put((result, error)))
        for at in range(50):
            client.async_stream_infer(
                "total",
                [tensor(by_grpc, "x", np.array([[at, 1]], np.float32))],
                sequence_id="stream",
                sequence_start=at == 0,
                sequence_end=at == 49,
            )
        found = [done.get(timeout=30) for _ in range(50)]
        client.stop_stream()
    assert [error for _, error in found] == [None] * 50
    got = [result.as_numpy("y")[0].tolist() for result, _ in found]
    assert got == [[sum(range(at + 1)), at + 1] for at in range(50)]


def test_too_many_sequences(stateful: Backend) -> None:
    with by_grpc.InferenceServerClient(stateful.targets[0]) as client:
        for number in range(1, 301):
            step(client, by_grpc, "patient", [1, 1], sequence_id=10_000 + number, sequence_start=True)
        with pytest.raises(InferenceServerException, match="300 sequences are open") as refused:
            step(client, by_grpc, "patient", [1, 1], sequence_id=11_000, sequence_start=True)
        assert refused.value.status() == "StatusCode.UNAVAILABLE"
        for number in range(1, 301):
            assert step(client, by_grpc, "patient", [1, 1], sequence_id=10_000 + number, sequence_end=True)[0] == 2
        step(client, by_grpc, "patient", [1, 1], sequence_id=11_000, sequence_start=True, sequence_end=True)


async def test_an_inference_that_is_given_up_ends_its_sequence(stateful: Backend, second: int) -> None:
    """It waits behind the one before, and its deadline passes."""
    async with grpc.aio.insecure_channel(stateful.targets[0]) as channel:
        stub = Stub(channel, INFERENCE)

        def request(count: int, start: bool = False) -> Any:
            made = infer_request("slow_steps", ("count", "INT64", np.array(count)))
            made.parameters["sequence_id"].int64_param = 13
            made.parameters["sequence_start"].bool_param = start
            return made

        first = stub.ModelInfer(request(second // 2, start=True))
        await asyncio.sleep(0.05)
        third = asyncio.ensure_future(asyncio.sleep(0.1, stub.ModelInfer(request(1))))
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await stub.ModelInfer(request(1), timeout=0.05)
        assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await first
        for call in (await third, stub.ModelInfer(request(1))):
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await call
            assert ended.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert START in ended.value.details()
        await stub.ModelInfer(request(1, start=True))


async def test_a_sequence_runs_one_at_a_time(stateful: Backend, second: int) -> None:
    """Two runs may take place at once, but not of one sequence."""
    async with grpc.aio.insecure_channel(stateful.targets[0]) as channel:
        stub = Stub(channel, INFERENCE)
        order: list[int] = []

        async def run(at: int, count: int) -> None:
            made = infer_request("slow_steps", ("count", "INT64", np.array(count)))
            made.parameters["sequence_id"].int64_param = 14
            made.parameters["sequence_start"].bool_param = at == 0
            await stub.ModelInfer(made)
            order.append(at)

        tasks = []
        for at in range(4):
            tasks.append(asyncio.ensure_future(run(at, second // (5 * 4**at))))
            await asyncio.sleep(0.01)
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3]


async def test_those_behind_hear_of_one_that_was_given_up(stateful: Backend) -> None:
    """A stream with many inferences of one sequence ends in the middle; others of the sequence are refused, and the
    server goes on."""
    async with grpc.aio.insecure_channel(stateful.targets[0]) as channel:
        stub = Stub(channel, INFERENCE)

        def request(start: bool) -> Any:
            made = infer_request("patient", ("x", "FP32", np.ones((1, 2), np.float32)))
            made.parameters["sequence_id"].string_param = "torn"
            made.parameters["sequence_start"].bool_param = start
            return made

        for _ in range(20):
            stream = stub.ModelStreamInfer(iter([request(True), *[request(False)] * 63]))
            await stream.read()
            others = [stub.ModelInfer(request(False)) for _ in range(20)]
            stream.cancel()
            for found in await asyncio.gather(*others, return_exceptions=True):
                if isinstance(found, BaseException):
                    assert isinstance(found, grpc.aio.AioRpcError), found
                    assert START in found.details()
        assert (await stub.ServerReady(wire.ServerReadyRequest())).ready


def test_what_the_configuration_says(client: Any, module: Any) -> None:
    config = client.get_model_config("lstm", **({"as_json": True} if module is by_grpc else {}))
    config = config.get("config", config)
    batching = config["sequence_batching"]
    assert int(batching["max_sequence_idle_microseconds"]) == 60_000_000
    assert [one["input_name"] for one in batching["state"]] == ["h", "c"]
    assert [one["dims"] for one in batching["state"]] == [[str(HIDDEN)], [str(HIDDEN)]] or [
        one["dims"] for one in batching["state"]
    ] == [[HIDDEN], [HIDDEN]]
    assert [one["name"] for one in config["input"]] == ["x"]
    assert [one["name"] for one in config["output"]] == ["y"]
    assert config["max_batch_size"] == 16
    assert "dynamic_batching" not in config
    other = client.get_model_config("controls", **({"as_json": True} if module is by_grpc else {}))
    assert int(other.get("config", other)["sequence_batching"]["max_sequence_idle_microseconds"]) == 1_000_000
    metadata = client.get_model_metadata("lstm", **({"as_json": True} if module is by_grpc else {}))
    assert [one["name"] for one in metadata["inputs"]] == ["x"]
    assert "sequence" in client.get_server_metadata(**({"as_json": True} if module is by_grpc else {}))["extensions"]


BROKEN = {
    "state: an input that is not there": (
        'state [{input_name: "nothing" output_name: "after"}]', "state 'nothing': the model has no such input"
    ),
    "state: an output that is not there": (
        'state [{input_name: "before" output_name: "nothing"}]', "the model has no output 'nothing'"
    ),
    "state: another datatype": (
        'state [{input_name: "before" output_name: "after" data_type: TYPE_INT32}]', "expected datatype FP32"
    ),
    "state: other dims": ('state [{input_name: "before" output_name: "after" dims: [3]}]', "do not fit the model's"),
    "state: a file that is not there": (
        'state [{input_name: "before" output_name: "after" initial_state [{data_file: "x" dims: [2]}]}]', "cannot read"
    ),
    "state: a file elsewhere": (
        'state [{input_name: "before" output_name: "after" initial_state [{data_file: "../../x" dims: [2]}]}]',
        "expected a file in",
    ),
    "state: the same input twice": (
        'state [{input_name: "before" output_name: "after"}, {input_name: "before" output_name: "y"}]',
        "input 'before' is named more than once",
    ),
    "control: an input of two elements": (
        'control_input [{name: "x" control [{int32_false_true: [0, 1]}]}]', "expected one element for each row"
    ),
    "control: another datatype": (
        'control_input [{name: "start" control [{fp32_false_true: [0, 1]}]}]', "expected int32_false_true"
    ),
    "control: one value": (
        'control_input [{name: "start" control [{int32_false_true: [0]}]}]', "expected int32_false_true with two values"
    ),
    "iterative": ("iterative_sequence: true", "iterative_sequence is not supported"),
}  # fmt: skip


def test_broken_configurations(tmp_path: Path) -> None:
    names = {}
    for number, (what, (text, _)) in enumerate(BROKEN.items()):
        names[what] = f"broken{number}"
        path = sequence_models.accumulator(tmp_path, names[what])
        sequence_models.configure(path, f"max_batch_size: 4 sequence_batching {{ {text} }}")
    sequence_models.accumulator(tmp_path)
    with Backend(tmp_path, "--threads", "1", "--concurrency", "1") as backend:
        backend.wait_ready()
        until(lambda: "ready: total 1" in backend.log, "never ready")
        for what, (_, reason) in BROKEN.items():
            (line,) = [line for line in backend.log.splitlines() if f"not served: model {names[what]} " in line]
            assert reason in line, what


def test_fields_without_effect_are_named(tmp_path: Path) -> None:
    path = sequence_models.accumulator(tmp_path)
    text = (path.parent.parent / "config.pbtxt").read_text()
    changed = text.replace("oldest {}", "oldest { max_candidate_sequences: 4 preferred_batch_size: [2, 4] }")
    sequence_models.configure(path, changed)
    with Backend(tmp_path, "--threads", "1", "--concurrency", "1") as backend:
        backend.wait_ready()
        until(lambda: "have no effect here" in backend.log, "never said")
    assert (
        "sequence_batching.oldest.max_candidate_sequences, sequence_batching.oldest.preferred_batch_size have no effect"
    ) in backend.log


@pytest.mark.parametrize("corrid", ["BYTES", "INT32"])
def test_ids_of_other_datatypes(tmp_path: Path, corrid: str) -> None:
    sequence_models.controls(tmp_path, corrid)
    with Backend(tmp_path, "--threads", "1", "--concurrency", "1") as backend:
        backend.wait_ready()
        with by_grpc.InferenceServerClient(backend.targets[0]) as client:

            def seen(name: int | str) -> Any:
                given = [tensor(by_grpc, "x", np.zeros((1, 1), np.float32))]
                return client.infer("controls", given, sequence_id=name, sequence_start=True).as_numpy("id_out").item()

            if corrid == "BYTES":
                assert seen("some-é") == "some-é".encode()
                assert seen(12) == b"12"
            else:
                assert seen(12) == 12
                with pytest.raises(InferenceServerException, match="expected a number up to 2147483647"):
                    seen(1 << 31)
