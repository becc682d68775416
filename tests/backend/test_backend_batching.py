"""Which calls run together, and that running together changes no answer."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import backend_models
import numpy as np
import pytest
from backend_process import DIGITS, infer_request
from hypothesis import given
from hypothesis import strategies as st

from backend.batching import Batcher, Job, Queue
from backend.calls import Call
from backend.errors import InvalidInput, ModelFailure, Unavailable
from backend.repository import ModelFile, load

IMAGES = np.random.default_rng(1).integers(0, 17, (50, 64)).astype(np.float32)


def model_of(path: Path, max_batch: int = 32):
    return load(ModelFile(path.parent.parent.name, int(path.parent.name), path), ("cpu",), 1, max_batch)


@pytest.fixture
def digits():
    return model_of(DIGITS / "models" / "digits" / "1" / "model.onnx")


@pytest.fixture
def executor():
    with ThreadPoolExecutor(1) as executor:
        yield executor


def job(key, rows=1, since=0):
    return Job(Call((), (), rows, key), since, None)


def test_queue_merges_equal_keys_in_order_up_to_the_limit():
    queue = Queue(0)
    first, other, second, third = job("a", 2), job("b"), job("a", 2), job("a", 1)
    for each in (first, other, second, third):
        queue.push(each)
    assert queue.take(0, 4) == [first, second]
    assert queue.take(0, 4) == [other]
    assert queue.take(0, 4) == [third]
    assert queue.take(0, 4) == []
    assert len(queue) == 0


def test_queue_never_merges_calls_without_a_key():
    queue = Queue(0)
    jobs = [job(None) for _ in range(3)]
    for each in jobs:
        queue.push(each)
    assert [queue.take(0, 8) for _ in range(3)] == [[each] for each in jobs]


def test_queue_runs_a_call_larger_than_the_limit_alone():
    queue = Queue(0)
    large, small = job("a", 100), job("a")
    queue.push(large)
    queue.push(small)
    assert queue.take(0, 8) == [large]
    assert queue.take(0, 8) == [small]


def test_queue_delay_holds_a_group_until_it_is_full_or_due():
    queue = Queue(1000)
    queue.push(job("a", since=100))
    assert queue.next_due() == 1100
    assert queue.take(1099, 4) == []
    queue.push(job("a", 3, since=900))
    assert len(queue.take(1000, 4)) == 2  # full
    queue.push(job("b", since=2000))
    assert len(queue.take(3000, 4)) == 1  # due
    queue.push(job(None, since=4000))
    assert queue.next_due() == 4000
    assert len(queue.take(4000, 4)) == 1  # nothing to wait for


@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(1, 9), st.booleans())), st.integers(1, 12))
def test_queue_hands_out_every_waiting_job_once(calls, limit):
    queue = Queue(0)
    waiting = []
    for key, rows, cancelled in calls:
        each = job(key, rows)
        queue.push(each)
        if cancelled:
            assert queue.remove(each)
            assert not queue.remove(each)
        else:
            waiting.append(each)
    assert len(queue) == len(waiting)
    taken = []
    while batch := queue.take(0, limit):
        assert len(batch) == 1 or sum(each.call.rows for each in batch) <= limit
        assert len({each.call.key for each in batch}) == 1
        taken += batch
    assert sorted(map(id, taken)) == sorted(map(id, waiting))
    for key in ("a", "b"):
        assert [j for j in taken if j.call.key == key] == [j for j in waiting if j.call.key == key]
    assert queue.next_due() is None


async def test_batches_answer_as_single_calls_do(digits, executor):
    batcher = Batcher(digits, executor, runs=1, max_queue=1000, delay=0)
    calls = [digits.check(infer_request("digits", ("image", "FP32", image[None]))) for image in IMAGES]
    answers = await asyncio.gather(*map(batcher.submit, calls))
    assert digits.statistics.executions == 3  # the first alone, 32 that waited for it, the last 17
    assert digits.statistics.inferences == digits.statistics.success.count == 50
    assert sorted(digits.statistics.batches) == [1, 17, 32]
    for image, answer in zip(IMAGES, answers, strict=True):
        label, probabilities = digits.session.run(["label", "probabilities"], {"image": image[None]})
        assert answer.response.raw_output_contents[0] == label.tobytes()
        got = np.frombuffer(answer.response.raw_output_contents[1], "<f4")
        np.testing.assert_allclose(got, probabilities[0], rtol=1e-4, atol=1e-7)
    assert batcher.running == 0


async def test_different_outputs_and_row_counts_in_one_burst(digits, executor):
    batcher = Batcher(digits, executor, runs=1, max_queue=1000, delay=0)
    calls = []
    for index in range(40):
        request = infer_request("digits", ("image", "FP32", IMAGES[: index % 5 + 1]))
        if index % 2:
            request.outputs.add(name="label")
        calls.append(digits.check(request))
    answers = await asyncio.gather(*map(batcher.submit, calls))
    labels = digits.session.run(["label"], {"image": IMAGES})[0]
    for index, answer in enumerate(answers):
        assert len(answer.response.outputs) == (1 if index % 2 else 2)
        assert list(answer.response.outputs[0].shape) == [index % 5 + 1]
        assert answer.response.raw_output_contents[0] == labels[: index % 5 + 1].tobytes()
    assert digits.statistics.executions < 40


async def test_queue_delay_fills_a_batch(digits, executor):
    batcher = Batcher(digits, executor, runs=1, max_queue=1000, delay=60_000_000_000)
    calls = [digits.check(infer_request("digits", ("image", "FP32", image[None]))) for image in IMAGES[:32]]
    await asyncio.gather(*map(batcher.submit, calls))
    assert digits.statistics.executions == 1


async def test_queue_delay_ends(digits, executor):
    batcher = Batcher(digits, executor, runs=1, max_queue=1000, delay=1_000_000)
    await batcher.submit(digits.check(infer_request("digits", ("image", "FP32", IMAGES[:1]))))
    assert digits.statistics.executions == 1


async def test_a_full_queue_refuses_and_a_cancelled_call_makes_room(digits, executor):
    gate = threading.Event()
    executor.submit(gate.wait)  # the one thread is taken, so the first call runs only when the gate opens
    batcher = Batcher(digits, executor, runs=1, max_queue=1, delay=0)
    call = digits.check(infer_request("digits", ("image", "FP32", IMAGES[:1])))
    running, waiting = (asyncio.create_task(batcher.submit(call)) for _ in range(2))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="1 requests are waiting already"):
        await batcher.submit(call)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    another = asyncio.create_task(batcher.submit(call))
    await asyncio.sleep(0)
    gate.set()
    assert (await running).response.raw_output_contents == (await another).response.raw_output_contents
    assert digits.statistics.executions == 2


async def test_a_cancelled_run_gives_its_place_back(digits, executor):
    gate = threading.Event()
    executor.submit(gate.wait)
    batcher = Batcher(digits, executor, runs=1, max_queue=10, delay=0)
    call = digits.check(infer_request("digits", ("image", "FP32", IMAGES[:1])))
    task = asyncio.create_task(batcher.submit(call))
    await asyncio.sleep(0)
    assert batcher.running == 1
    task.cancel()
    gate.set()
    await batcher.submit(call)
    assert batcher.running == 0


async def test_a_bad_call_fails_alone(tmp_path, executor):
    model = model_of(backend_models.pick(tmp_path))
    assert model.max_batch == 32
    batcher = Batcher(model, executor, runs=1, max_queue=1000, delay=0)
    calls = [model.check(infer_request("pick", ("index", "INT64", np.array([i], "<i8")))) for i in (0, 1, 7, 0)]
    results = await asyncio.gather(*map(batcher.submit, calls), return_exceptions=True)
    assert [type(result) for result in results] == [type(results[0])] * 2 + [InvalidInput, type(results[0])]
    assert results[1].response.raw_output_contents[0] == np.array([3, 4], "<f4").tobytes()
    assert model.statistics.fail.count == 1


async def test_an_unexpected_error_in_a_run_is_an_answer_and_a_report(digits, executor):
    class Broken:
        inputs, outputs = digits.session.inputs, digits.session.outputs

        def run(self, outputs, feeds):
            raise MemoryError("no room")

    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["exception"]))
    call = digits.check(infer_request("digits", ("image", "FP32", IMAGES[:1])))
    digits.session = Broken()
    batcher = Batcher(digits, executor, runs=1, max_queue=10, delay=0)
    with pytest.raises(ModelFailure, match="failed unexpectedly"):
        await batcher.submit(call)
    assert isinstance(reported[0], MemoryError)
    assert batcher.running == 0


def test_models_whose_rows_depend_on_each_other_are_not_batched(tmp_path, caplog):
    caplog.set_level("INFO")
    assert model_of(backend_models.mixing(tmp_path)).max_batch == 1
    assert "no batching: Softmax works over the rows" in caplog.text
    assert model_of(backend_models.slow(tmp_path)).max_batch == 1
    assert "fixed first dimension" in caplog.text
    assert model_of(backend_models.scale(tmp_path, 2.0, 1), max_batch=1).max_batch == 1


@pytest.mark.parametrize("datatype", backend_models.ELEMENTS)
def test_every_datatype_batches(tmp_path, datatype):
    model = model_of(backend_models.echo(tmp_path, datatype))
    assert model.max_batch == 32
    if datatype == "BYTES":
        raws = [b"".join(bytes([n, 0, 0, 0]) + b"abc"[:n] for n in (1, 2, 3)), bytes(12)]
    else:
        size = model.session.inputs[0].datatype.size
        raws = [bytes([i % 2 for i in range(3 * size)]), bytes(3 * size)]
    calls = []
    for raw in raws:
        request = infer_request(model.name)
        request.inputs.add(name="x", datatype=datatype, shape=[1, 3])
        request.raw_input_contents.append(raw)
        calls.append(model.check(request))
    answers = model.execute(calls)
    assert [answer.response.raw_output_contents[0] for answer in answers] == raws
    assert answers[0].times is answers[1].times
