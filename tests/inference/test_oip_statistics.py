"""The statistics of a pool: sums that never fall, whatever becomes of its model servers."""

from __future__ import annotations

import random
from typing import Any

from lb.inference.statistics import MOST_GONE, MOST_MODELS, PoolStatistics
from lb.wire import grpc_service_pb2 as wire


def response(*models: Any) -> Any:
    return wire.ModelStatisticsResponse(model_stats=models)


def model(count: int, name: str = "m", version: str = "1", last: int = 0, **fields: Any) -> Any:
    took = wire.StatisticDuration(count=count, ns=10 * count)
    return wire.ModelStatistics(
        name=name,
        version=version,
        last_inference=last,
        inference_count=2 * count,
        execution_count=count,
        inference_stats=wire.InferStatistics(success=took, queue=took, cache_hit=took),
        **fields,
    )


def count_of(answer: Any) -> int:
    (found,) = answer.model_stats
    assert found.inference_count == 2 * found.execution_count == 2 * found.inference_stats.success.count
    assert found.inference_stats.cache_hit.ns == 10 * found.execution_count
    return int(found.execution_count)


def test_the_sum_of_all_servers() -> None:
    def batch(size: int, count: int) -> Any:
        return wire.InferBatchStatistics(
            batch_size=size, compute_infer=wire.StatisticDuration(count=count, ns=7 * count)
        )

    def responses(count: int) -> Any:
        return wire.InferResponseStatistics(cancel=wire.StatisticDuration(count=count, ns=count))

    gpu = wire.MemoryUsage(type="GPU", id=0, byte_size=100)
    first = model(
        3, last=50, batch_stats=[batch(1, 2), batch(8, 1)], memory_usage=[gpu], response_stats={"0": responses(1)}
    )
    second = model(
        4, last=40, batch_stats=[batch(8, 5)], memory_usage=[gpu], response_stats={"0": responses(2), "1": responses(3)}
    )
    sums = PoolStatistics()
    answer = sums.take({"a": response(first), "b": response(second, model(1, "other", "3"))})
    assert [(m.name, m.version) for m in answer.model_stats] == [("m", "1"), ("other", "3")]
    found = answer.model_stats[0]
    assert (found.inference_count, found.execution_count, found.last_inference) == (14, 7, 50)
    assert (found.inference_stats.success.count, found.inference_stats.success.ns) == (7, 70)
    assert [(b.batch_size, b.compute_infer.count, b.compute_infer.ns) for b in found.batch_stats] == [
        (1, 2, 14),
        (8, 6, 42),
    ]
    assert [(u.type, u.id, u.byte_size) for u in found.memory_usage] == [("GPU", 0, 200)]
    assert {key: r.cancel.count for key, r in found.response_stats.items()} == {"0": 3, "1": 3}
    assert sums.take({"a": response(first), "b": response(second)}).model_stats[0] == found


def test_a_server_that_left_keeps_its_counts_in_the_sum() -> None:
    sums = PoolStatistics()
    assert count_of(sums.take({"a": response(model(3, last=9)), "b": response(model(4, last=8))})) == 7
    sums.follow({"b"})
    answer = sums.take({"b": response(model(5, last=8))})
    assert count_of(answer) == 8
    assert answer.model_stats[0].last_inference == 9
    assert (
        count_of(sums.take({"a": response(model(4)), "b": response(model(5))})) == 9
    )  # it is back, and did not restart


def test_a_server_that_restarted_adds_to_what_it_had() -> None:
    sums = PoolStatistics()
    assert count_of(sums.take({"a": response(model(30)), "b": response(model(4))})) == 34
    assert count_of(sums.take({"a": response(model(2)), "b": response(model(4))})) == 36
    assert count_of(sums.take({"a": response(model(1)), "b": response(model(5))})) == 38


def test_a_process_that_ended_and_whose_successor_has_counted_more() -> None:
    sums = PoolStatistics()
    assert count_of(sums.take({"a": response(model(3))})) == 3
    sums.ended("a")
    assert count_of(sums.take({"a": response(model(10))})) == 13


def test_only_models_that_a_server_names_are_told() -> None:
    sums = PoolStatistics()
    sums.take({"a": response(model(1), model(2, "n"))})
    assert [m.name for m in sums.take({"a": response(model(1))}).model_stats] == ["m"]
    assert [m.execution_count for m in sums.take({"a": response(model(1, "n"))}).model_stats] == [3]


def test_sums_stay_within_their_words() -> None:
    huge = wire.ModelStatistics(name="m", inference_count=2**64 - 1)
    (found,) = PoolStatistics().take({"a": response(huge), "b": response(huge)}).model_stats
    assert found.inference_count == 2**64 - 1


def test_what_is_remembered_is_bounded() -> None:
    sums = PoolStatistics()
    for i in range(MOST_MODELS + 50):
        sums.take({"a": response(model(1, f"m{i}"))})
    assert len(sums._models) == MOST_MODELS
    for i in range(MOST_GONE + 50):
        answer = sums.take({f"a{i}": response(model(1))})
        sums.follow({f"a{i}"})
    assert count_of(answer) == MOST_GONE + 50
    assert len(sums._models["m", "1"].last) <= MOST_GONE + 1


def test_no_sum_ever_falls() -> None:
    """Servers count, restart, leave and come back at random."""
    for seed in range(30):
        dice = random.Random(seed)
        sums = PoolStatistics()
        counts = dict.fromkeys("abcd", 0)
        before = 0
        for _ in range(60):
            for name in counts:
                counts[name] = 0 if dice.random() < 0.1 else counts[name] + dice.randrange(4)
            there = [name for name in counts if dice.random() < 0.7] or ["a"]
            sums.follow(there)
            now = count_of(sums.take({name: response(model(counts[name])) for name in there}))
            assert now >= before
            before = now


def test_what_is_known_without_asking() -> None:
    sums = PoolStatistics()
    assert not sums.kept("", "").model_stats
    sums.take({"a": response(model(3), model(1, "other", "3"))})
    sums.ended("a")
    assert [(m.name, m.execution_count) for m in sums.kept("", "").model_stats] == [("m", 3), ("other", 1)]
    assert [m.name for m in sums.kept("m", "").model_stats] == ["m"]
    assert [m.name for m in sums.kept("other", "3").model_stats] == ["other"]
    assert not sums.kept("other", "1").model_stats
    assert count_of(sums.take({"b": response(model(2))})) == 5
