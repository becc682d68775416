"""Which inferences run together, and that running together changes no answer."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import backend_models
import numpy as np
import pytest
from backend_process import DIGITS, infer_request
from compiled.inference_engine import on_the_loop, submit
from compiled.inference_queue import Queue, Waiting
from hypothesis import given
from hypothesis import strategies as st

from backend import session
from backend.binding_runs import BindingRuns
from backend.inference.engine import Engine, ModelQueue
from backend.inference.model import Served
from backend.native import NativeSession
from backend.repository.folder import ModelFile
from backend.repository.loading import load
from backend.repository.settings import Settings
from lb.net.poller import Poller
from lb.net.timers import Timers
from lb.wire import grpc_service_pb2 as wire

IMAGES = np.random.default_rng(1).integers(0, 17, (50, 64)).astype(np.float32)
INVALID, DEADLINE, INTERNAL, UNAVAILABLE = 3, 4, 13, 14
SECOND = 1_000_000_000


def model_of(path: Path, max_batch: int = 32):
    return load(ModelFile(path.parent.parent.name, int(path.parent.name), path), Settings(max_batch=max_batch))


@pytest.fixture(params=["C API", "Python's binding"])
def runtime(request, monkeypatch):
    """Both ways to run a model."""
    if request.param != "C API":
        monkeypatch.setattr(session, "_c_api", lambda: False)
    return request.param


@pytest.fixture
def digits(runtime):
    return model_of(DIGITS / "models" / "digits" / "1" / "model.onnx")


@asynccontextmanager
async def engine(runs: int = 1):
    poller = Poller(asyncio.get_running_loop())
    timers = Timers(poller)
    with ThreadPoolExecutor(runs) as executor:
        made = Engine(poller, timers, runs, BindingRuns(executor))
        yield made
        while made.running:
            await asyncio.sleep(0.001)
        made.close()
    timers.close()
    poller.close()


def queue_of(engine, model, max_queue=1000, delay=0, steady=False, runs=0, timeout=0, levels=1):
    compiled = model.session.compiled if isinstance(model.session, NativeSession) else None
    return ModelQueue(engine, Served(model, compiled), [(max_queue, timeout)] * levels, delay, steady, runs, levels - 1)


def statistics(queue):
    return wire.ModelStatistics.FromString(queue.served.statistics())


def asked(queue, request, deadline=None):
    made = submit(queue, request.SerializeToString(), deadline)
    assert made is not None
    return made


async def answer(made):
    status, problem, response = await made.done
    assert status == 0, problem
    return wire.ModelInferResponse.FromString(response)


def image(rows):
    return infer_request("digits", ("image", "FP32", rows))


def test_the_queue_merges_equal_keys_in_order_up_to_the_limit():
    queue = Queue(0)
    first, other, second, third = Waiting("a", 2), Waiting("b"), Waiting("a", 2), Waiting("a", 1)
    for each in (first, other, second, third):
        queue.push(each)
    assert queue.take(0, 4) == [first, second]
    assert queue.take(0, 4) == [other]
    assert queue.take(0, 4) == [third]
    assert queue.take(0, 4) == []
    assert len(queue) == 0


def test_the_queue_never_merges_inferences_without_a_key():
    queue = Queue(0)
    waiting = [Waiting() for _ in range(3)]
    for each in waiting:
        queue.push(each)
    assert [queue.take(0, 8) for _ in range(3)] == [[each] for each in waiting]


def test_the_queue_runs_an_inference_larger_than_the_limit_alone():
    queue = Queue(0)
    large, small = Waiting("a", 100), Waiting("a")
    queue.push(large)
    queue.push(small)
    assert queue.take(0, 8) == [large]
    assert queue.take(0, 8) == [small]


def test_a_delay_holds_a_group_until_it_is_full_or_due():
    queue = Queue(1000)
    queue.push(Waiting("a", since=100))
    assert queue.next_due() == 1100
    assert queue.take(1099, 4) == []
    queue.push(Waiting("a", 3, since=900))
    assert len(queue.take(1000, 4)) == 2  # full
    queue.push(Waiting("b", since=2000))
    assert len(queue.take(3000, 4)) == 1  # due
    queue.push(Waiting(since=4000))
    assert queue.next_due() == 4000
    assert len(queue.take(4000, 4)) == 1  # nothing to wait for


def test_the_first_level_goes_first_and_others_fill_its_batch():
    queue = Queue(0, levels=3)
    low, other, middle, high, lonely = (
        Waiting("a", 2, level=2), Waiting("b", level=2), Waiting("a", level=1), Waiting("a", level=0),
        Waiting(level=1),
    )  # fmt: skip
    for each in (low, other, middle, high, lonely):
        queue.push(each)
    assert queue.take(0, 3) == [high, middle]  # two rows more find no room
    assert queue.take(0, 3) == [lonely]
    queue.push(high)
    assert queue.take(0, 3) == [high, low]
    assert queue.take(0, 3) == [other]


def test_a_level_is_full_by_itself():
    queue = Queue(0, levels=2, most=2)
    for level in (0, 1):
        queue.push(Waiting(level=level))
    assert not queue.full()
    queue.push(Waiting(level=1))
    assert queue.full()
    queue.take(0, 1)
    queue.take(0, 1)
    assert not queue.full()


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(1, 9), st.integers(0, 2), st.booleans())),
    st.integers(1, 12),
)
def test_the_queue_hands_out_everything_that_waits_once(calls, limit):
    queue = Queue(0, levels=3)
    waiting = []
    for key, rows, level, cancelled in calls:
        each = Waiting(key, rows, level=level)
        queue.push(each)
        if cancelled:
            queue.remove(each)
        else:
            waiting.append(each)
    assert len(queue) == len(waiting)
    taken = []
    while batch := queue.take(0, limit):
        assert len(batch) == 1 or sum(each.rows for each in batch) <= limit
        assert len({each.key for each in batch}) == 1
        assert [each.level for each in batch] == sorted(each.level for each in batch)
        taken += batch
    assert sorted(map(id, taken)) == sorted(map(id, waiting))
    for key in ("a", "b"):
        for level in range(3):
            kind = (key, level)
            assert [each for each in taken if (each.key, each.level) == kind] == [
                each for each in waiting if (each.key, each.level) == kind
            ]
    assert queue.next_due() is None


async def test_batches_answer_as_single_calls_do(digits):
    async with engine() as made:
        queue = queue_of(made, digits, delay=SECOND // 100)  # what waits for others is merged without being learnt
        answers = await asyncio.gather(*[answer(asked(queue, image(row[None]))) for row in IMAGES])
        counted = statistics(queue)
        assert [(size.batch_size, size.compute_infer.count) for size in counted.batch_stats] == [(18, 1), (32, 1)]
        assert (counted.execution_count, counted.inference_count, counted.inference_stats.success.count) == (2, 50, 50)
        for row, got in zip(IMAGES, answers, strict=True):
            label, probabilities = digits.session.run(["label", "probabilities"], {"image": row[None]})
            assert got.raw_output_contents[0] == label.tobytes()
            assert list(got.outputs[1].shape) == [1, 10]
            np.testing.assert_allclose(
                np.frombuffer(got.raw_output_contents[1], "<f4"), probabilities[0], rtol=1e-4, atol=1e-7
            )


async def test_different_outputs_and_row_counts_in_one_burst(digits):
    async with engine() as made:
        queue = queue_of(made, digits, delay=SECOND // 100)
        waiting = []
        for index in range(40):
            request = image(IMAGES[: index % 5 + 1])
            if index % 2:
                request.outputs.add(name="label")
            waiting.append(asked(queue, request))
        answers = await asyncio.gather(*map(answer, waiting))
        assert statistics(queue).execution_count < 40
    labels = digits.session.run(["label"], {"image": IMAGES})[0]
    for index, got in enumerate(answers):
        assert len(got.outputs) == (1 if index % 2 else 2)
        assert list(got.outputs[0].shape) == [index % 5 + 1]
        assert got.raw_output_contents[0] == labels[: index % 5 + 1].tobytes()


async def test_a_delay_fills_a_batch(digits):
    async with engine() as made:
        queue = queue_of(made, digits, delay=60 * SECOND)
        waiting = [asked(queue, image(row[None])) for row in IMAGES[:31]]
        await asyncio.sleep(0.05)
        assert queue.waiting == 31
        waiting.append(asked(queue, image(IMAGES[31:32])))
        await asyncio.gather(*map(answer, waiting))
        assert statistics(queue).execution_count == 1


async def test_a_delay_ends(digits):
    async with engine() as made:
        queue = queue_of(made, digits, delay=SECOND // 100)
        started = time.monotonic()
        await answer(asked(queue, image(IMAGES[:1])))
        assert time.monotonic() - started >= 0.01
        assert statistics(queue).execution_count == 1


def counting(seconds: float, per_second: int):
    return infer_request("slow", ("count", "INT64", np.array(round(seconds * per_second), "<i8")))


async def test_a_full_queue_refuses_and_who_leaves_makes_room(tmp_path, second, runtime):
    model = model_of(backend_models.slow(tmp_path))
    async with engine() as made:
        queue = queue_of(made, model, max_queue=1)
        running = asked(queue, counting(0.5, second))
        await asyncio.sleep(0.05)
        waiting = asked(queue, counting(0, second))
        status, problem, _ = await asked(queue, counting(0, second)).done
        assert (status, problem) == (UNAVAILABLE, "model slow version 1: 1 requests are waiting already")
        waiting.leave()
        another = asked(queue, counting(0, second))
        await answer(running)
        await answer(another)
        assert statistics(queue).execution_count == 2
        assert not waiting.done.done()


async def test_whose_run_nobody_waits_for_any_more_gives_its_place_back(tmp_path, second, runtime):
    model = model_of(backend_models.slow(tmp_path))
    async with engine() as made:
        queue = queue_of(made, model)
        left = asked(queue, counting(0.2, second))
        await asyncio.sleep(0.05)
        left.leave()
        await answer(asked(queue, counting(0, second)))
        assert queue.running == 0
        assert not left.done.done()


async def test_a_run_that_nobody_waits_for_any_more_ends(tmp_path, second):
    """The run would take two days."""
    model = model_of(backend_models.slow(tmp_path))
    async with engine() as made:
        queue = queue_of(made, model, runs=1)
        left = asked(queue, counting(200_000, second))
        await asyncio.sleep(0.05)
        assert queue.running == 1
        next = asked(queue, counting(0, second))
        left.leave()
        await answer(next)
        assert statistics(queue).inference_stats.fail.count == 1


async def test_who_has_priority_goes_first(tmp_path, second, runtime):
    model = model_of(backend_models.slow(tmp_path))
    async with engine() as made:
        queue = queue_of(made, model, runs=1, levels=3)
        order = []
        waiting = [asked(queue, counting(0.3, second))]
        await asyncio.sleep(0.05)
        for priority in (0, 2, 3, 1, 9):  # 0 and 9 are none: the last
            request = counting(0, second)
            if priority:
                request.parameters["priority"].int64_param = priority
            one = asked(queue, request)
            one.done.add_done_callback(lambda done, priority=priority: order.append(priority))
            waiting.append(one)
        await asyncio.gather(*map(answer, waiting))
        assert order == [1, 2, 0, 3, 9]


async def test_what_is_too_late_does_not_run(tmp_path, second, runtime):
    model = model_of(backend_models.slow(tmp_path))
    async with engine() as made:
        queue = queue_of(made, model)
        running = asked(queue, counting(1, second))
        await asyncio.sleep(0.05)
        late = asked(queue, counting(0, second), deadline=time.monotonic_ns() + SECOND // 20)
        assert (await late.done)[0] == DEADLINE
        await answer(running)
        assert statistics(queue).execution_count == 1


async def test_who_waits_too_long_is_refused(tmp_path, second, runtime):
    """At its time, while the run before goes on; who came later may still wait."""
    model = model_of(backend_models.slow(tmp_path), 1)
    async with engine() as made:
        queue = queue_of(made, model, timeout=SECOND // 20)
        running = asked(queue, counting(3, second))
        await asyncio.sleep(0.02)
        late = asked(queue, counting(0, second))
        status, problem, _ = await late.done
        assert (status, problem) == (UNAVAILABLE, f"{model}: no run was free within 50000 µs")
        assert not running.done.done()
        assert statistics(queue).inference_stats.fail.count == 1
        assert (queue.waiting, queue.running) == (0, 1)
        await answer(running)
        await answer(asked(queue, counting(0, second)))


async def test_a_model_has_fewer_runs_than_the_engine(tmp_path, second, runtime):
    model = model_of(backend_models.slow(tmp_path), 1)
    async with engine(runs=3) as made:
        queue = queue_of(made, model, runs=2)
        assert (queue.runs, queue_of(made, model).runs, queue_of(made, model, runs=9).runs) == (2, 3, 3)
        waiting = [asked(queue, counting(0.2, second)) for _ in range(5)]
        await asyncio.sleep(0.01)
        assert (queue.running, queue.waiting) == (2, 3)
        for each in waiting:
            await answer(each)


async def test_a_bad_inference_fails_alone(tmp_path, runtime):
    model = model_of(backend_models.pick(tmp_path))
    assert model.max_batch == 32
    async with engine() as made:
        queue = queue_of(made, model, delay=SECOND // 100)
        waiting = [asked(queue, infer_request("pick", ("index", "INT64", np.array([i], "<i8")))) for i in (0, 1, 7, 0)]
        results = [await each.done for each in waiting]
        assert [status for status, _, _ in results] == [0, 0, INVALID, 0]
        assert results[2][1].startswith("model pick version 1 refuses the input: ")
        good = wire.ModelInferResponse.FromString(results[1][2])
        assert good.raw_output_contents[0] == np.array([3, 4], "<f4").tobytes()
        counted = statistics(queue).inference_stats
        assert (counted.success.count, counted.fail.count) == (3, 1)


async def test_an_unexpected_error_in_a_run_is_an_answer_and_a_report(monkeypatch, caplog):
    monkeypatch.setattr(session, "_c_api", lambda: False)
    digits = model_of(DIGITS / "models" / "digits" / "1" / "model.onnx")

    class Broken:
        inputs, outputs = digits.session.inputs, digits.session.outputs

        def run(self, outputs, feeds):
            raise MemoryError("no room")

    digits.session = Broken()
    async with engine() as made:
        queue = queue_of(made, digits)
        status, problem, _ = await asked(queue, image(IMAGES[:1])).done
        assert status == INTERNAL
        assert problem == "model digits version 1 failed unexpectedly; the server's log has more"
        assert "no room" in caplog.text
        assert queue.running == 0


def test_models_whose_rows_depend_on_each_other_are_not_batched(tmp_path, caplog):
    caplog.set_level("INFO")
    assert model_of(backend_models.mixing(tmp_path)).max_batch == 1
    assert "no batching: Softmax works over the rows" in caplog.text
    assert model_of(backend_models.slow(tmp_path)).max_batch == 1
    assert "fixed first dimension" in caplog.text
    assert model_of(backend_models.scale(tmp_path, 2.0, 1), max_batch=1).max_batch == 1


@pytest.mark.parametrize("datatype", backend_models.ELEMENTS)
async def test_every_datatype_batches(tmp_path, datatype, runtime):
    model = model_of(backend_models.echo(tmp_path, datatype), max_batch=2)
    assert model.max_batch == 2
    if datatype == "BYTES":
        raws = [b"".join(bytes([n, 0, 0, 0]) + b"abc"[:n] for n in (1, 2, 3)), bytes(12)]
    else:
        size = model.session.inputs[0].datatype.size
        raws = [bytes([i % 2 for i in range(3 * size)]), bytes(3 * size)]
    async with engine() as made:
        queue = queue_of(made, model, delay=60 * SECOND)
        waiting = []
        for raw in raws:
            request = infer_request(model.name)
            request.inputs.add(name="x", datatype=datatype, shape=[1, 3])
            request.raw_input_contents.append(raw)
            waiting.append(asked(queue, request))
        answers = [await answer(each) for each in waiting]
        assert [got.raw_output_contents[0] for got in answers] == raws
        assert statistics(queue).execution_count == 1


async def test_what_merging_brings_is_learnt(tmp_path):
    """The first run is of one row; a model whose runs cost the same with many rows gets them together."""
    model = model_of(backend_models.echo(tmp_path, "FP32"))
    async with engine() as made:
        queue = queue_of(made, model, steady=True)
        for _ in range(30):
            await asyncio.gather(
                *[
                    answer(asked(queue, infer_request(model.name, ("x", "FP32", np.ones((1, 3), "f4")))))
                    for _ in range(32)
                ]
            )
        counted = {size.batch_size: size.compute_infer.count for size in statistics(queue).batch_stats}
        assert min(counted) == 1
        assert max(counted) > 4


async def test_short_runs_of_steady_models_take_place_on_the_loop(digits, runtime):
    async with engine() as made:
        queue = queue_of(made, digits, steady=True)
        for _ in range(20):
            await answer(asked(queue, image(IMAGES[:1])))
        if runtime == "C API":
            assert queue.short_size > 256
            done = asked(queue, image(IMAGES[:1])).done
            await asyncio.sleep(0)  # the loop takes what came
            await asyncio.sleep(0)
            assert done.done()
        unsteady = queue_of(made, digits)
        await answer(asked(unsteady, image(IMAGES[:1])))
        assert unsteady.short_size == 0


async def test_answers_are_written_before_all_runs_on_the_loop_are_over(tmp_path):
    model = model_of(backend_models.echo(tmp_path, "FP32"), max_batch=1)
    request = infer_request(model.name, ("x", "FP32", np.ones((1, 3), "f4")))
    async with engine() as made:
        queue = queue_of(made, model, steady=True)
        for _ in range(20):
            await answer(asked(queue, request))
        waiting = [asked(queue, request) for _ in range(250)]
        await asyncio.gather(*(answer(each) for each in waiting))
        await asyncio.sleep(0)
        order = [each.written.after for each in waiting]
        assert order == sorted(order)
        assert order[-1] > order[0]


async def test_a_busy_model_leaves_the_loop_to_others(tmp_path):
    """Its queue is never empty, and never runs for less than a turn."""
    busy, other = (model_of(backend_models.echo(tmp_path / name, "FP32"), max_batch=1) for name in "ab")
    request = infer_request(busy.name, ("x", "FP32", np.ones((1, 3), "f4")))
    async with engine() as made:
        on_the_loop(made)
        queues = [queue_of(made, model, max_queue=10_000, steady=True) for model in (busy, other)]
        for queue in queues:
            for _ in range(20):
                await answer(asked(queue, request))
        count, over = 0, False

        def again(_: object) -> None:
            nonlocal count
            count += 1
            if not over and count < 30_000:
                asked(queues[0], request).done.add_done_callback(again)

        for _ in range(6000):
            asked(queues[0], request).done.add_done_callback(again)
        await asyncio.sleep(0)
        await answer(asked(queues[1], request))
        over = True
        assert count < 6000  # before those that were there already had all run
        while queues[0].waiting:
            await asyncio.sleep(0.001)


def test_a_model_whose_time_depends_on_values_is_not_steady(tmp_path):
    assert not model_of(backend_models.slow(tmp_path)).steady
    assert model_of(DIGITS / "models" / "digits" / "1" / "model.onnx").steady


async def test_a_full_queue_does_not_wait_for_others(digits):
    async with engine() as made:
        queue = queue_of(made, digits, max_queue=2, delay=60 * SECOND)
        first, second, third = (asked(queue, image(row[None])) for row in IMAGES[:3])
        await asyncio.gather(answer(first), answer(second))
        assert (queue.waiting, third.done.done()) == (1, False)
        third.leave()


async def test_a_run_that_the_system_has_no_thread_for_is_an_answer(monkeypatch, caplog):
    monkeypatch.setattr(session, "_c_api", lambda: False)
    digits = model_of(DIGITS / "models" / "digits" / "1" / "model.onnx")

    def no_thread(batch):
        raise RuntimeError("can't start new thread")

    poller = Poller(asyncio.get_running_loop())
    timers = Timers(poller)
    made = Engine(poller, timers, 1, no_thread)
    queue = queue_of(made, digits)
    status, problem, _ = await asked(queue, image(IMAGES[:1])).done
    assert (status, problem) == (INTERNAL, "model digits version 1 cannot be run: can't start new thread")
    assert queue.running == made.running == 0
    assert "can't start new thread" in caplog.text
    made.close()
    timers.close()
    poller.close()
