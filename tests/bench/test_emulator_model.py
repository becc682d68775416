"""The service-time model as a function of time: queue, slots, batches, stalls, cancelling, and no request lost."""

from __future__ import annotations

import heapq
import math
import statistics
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.emulator.distributions import MS, drawing, mean_ms
from bench.emulator.model import Executor, Job
from bench.emulator.spec import Batched, Constant, Empirical, Exponential, Instant, Lognormal, Normal, Parallel, Serial
from bench.emulator.timeline import NEVER, Span, Timeline
from bench.errors import BenchError

Execution = Instant | Serial | Parallel | Batched
FREE = Timeline()


def executor(execution: Execution, timeline: Timeline = FREE, limit: int | None = None, seed: int = 1) -> Executor:
    return Executor(execution, timeline, Random(seed), limit)


def run_out(model: Executor) -> list[tuple[int, Job]]:
    """Every finish from now on with its exact time."""
    finished = []
    while (at := model.due) < NEVER:
        finished += [(at, job) for job in model.advance(at)]
    return finished


def arrivals(model: Executor, times_ms: list[float]) -> tuple[list[Job], list[tuple[int, Job]]]:
    """Requests at these times; the jobs, and the finishes seen on the way."""
    jobs, finished = [], []
    for time in times_ms:
        now = round(time * MS)
        while model.due <= now:
            at = model.due
            finished += [(at, job) for job in model.advance(at)]
        jobs.append(Job())
        assert model.arrive(jobs[-1], now)
    return jobs, finished


def finishes_ms(model: Executor, times_ms: list[float]) -> list[float]:
    """When each request finishes, in order of arrival."""
    jobs, finished = arrivals(model, times_ms)
    at = {job: time for time, job in finished + run_out(model)}
    return [at[job] / MS for job in jobs]


def test_a_batch_takes_its_time_for_each_item() -> None:
    model = executor(Serial(Constant(2.0), per_item=True))
    job = Job()
    job.items = 16
    assert model.arrive(job, 0)
    assert run_out(model) == [(32 * MS, job)]


# Distributions


@pytest.mark.parametrize(
    ("time", "mean"),
    [
        (Constant(5.0), 5.0),
        (Exponential(4.0), 4.0),
        (Lognormal(3.0, 0.5), 3.0 * math.exp(0.125)),
        (Lognormal(3.0, 0.0), 3.0),
        (Normal(3.0, 0.2), 3.0),
        (Normal(3.0, 0.33), 3.0),
    ],
)
def test_means(time: Constant | Exponential | Lognormal | Normal, mean: float) -> None:
    draw = drawing(time, Random(7))
    assert statistics.fmean(draw() for _ in range(40_000)) / MS == pytest.approx(mean, rel=0.03)
    assert mean_ms(time) == pytest.approx(mean)


def test_the_median_of_a_lognormal_and_the_spread_of_an_exponential() -> None:
    lognormal, exponential = drawing(Lognormal(3.0, 1.0), Random(1)), drawing(Exponential(4.0), Random(1))
    assert statistics.median(lognormal() for _ in range(40_000)) / MS == pytest.approx(3.0, rel=0.03)
    assert statistics.stdev(exponential() for _ in range(40_000)) / MS == pytest.approx(4.0, rel=0.03)


def test_the_spread_of_a_normal_and_that_none_is_below_nothing() -> None:
    draw = drawing(Normal(3.0, 0.33), Random(1))
    times = [draw() for _ in range(40_000)]
    assert statistics.stdev(times) / MS == pytest.approx(0.99, rel=0.03)
    assert min(times) > 0


def test_an_empirical_file(tmp_path: Path) -> None:
    file = tmp_path / "times"
    file.write_text("# measured\n1.5\n\n2 # slow\n10\n")
    draw = drawing(Empirical(str(file)), Random(1))
    assert {draw() for _ in range(200)} == {1_500_000, 2_000_000, 10_000_000}
    assert mean_ms(Empirical(str(file))) == 4.5


@pytest.mark.parametrize(
    ("text", "says"), [("1\nx\n", ":2: 'x'"), ("1\n\n-1", ":3: "), ("nan", ":1: "), ("# none\n", "no service times")]
)
def test_a_bad_empirical_file_is_named_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "times"
    file.write_text(text)
    with pytest.raises(BenchError, match="times") as caught:
        drawing(Empirical(str(file)), Random(1))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_same_seed_gives_the_same_times_and_another_does_not() -> None:
    times = [float(i) for i in range(50)]
    first, again, other = (finishes_ms(executor(Serial(Exponential(3.0)), seed=s), times) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_cancelled_requests_do_not_shift_who_gets_which_time() -> None:
    works = []
    for cancelled in (False, True):
        model = executor(Serial(Exponential(3.0)))
        jobs, _ = arrivals(model, [0.0, 0.0, 0.0])
        if cancelled:
            model.cancel(jobs[1], 0)
        run_out(model)
        works.append((jobs[0].work, jobs[2].work))
    assert works[0] == works[1]


# Queue and slots


def test_serial_is_first_come_first_served() -> None:
    assert finishes_ms(executor(Serial(Constant(10.0))), [0, 1, 2, 50]) == [10, 20, 30, 60]


def test_parallel_starts_as_many_as_it_has_slots() -> None:
    assert finishes_ms(executor(Parallel(Constant(10.0), 2)), [0, 1, 2, 3, 50]) == [10, 11, 20, 21, 60]


def test_instant_answers_at_once_however_many_there_are() -> None:
    assert finishes_ms(executor(Instant()), [0, 0, 0, 7]) == [0, 0, 0, 7]


def test_a_late_wake_up_does_not_delay_what_follows() -> None:
    model = executor(Serial(Constant(10.0)))
    arrivals(model, [0, 1, 2])
    assert model.advance(9 * MS) == []
    assert len(model.advance(25 * MS)) == 2
    assert model.due == 30 * MS


def test_a_bounded_queue_refuses_what_would_wait_beyond_it() -> None:
    model = executor(Serial(Constant(10.0)), limit=1)
    first, second, third, fourth = (Job() for _ in range(4))
    assert model.arrive(first, 0)
    assert model.arrive(second, 0)
    assert not model.arrive(third, 0)
    assert (model.waiting, model.executing, model.peak) == (1, 1, 1)
    assert model.advance(10 * MS) == [first]
    assert model.arrive(fourth, 10 * MS)
    assert [job for _, job in run_out(model)] == [second, fourth]


def test_without_a_queue_a_free_slot_still_takes_a_request() -> None:
    model = executor(Serial(Constant(10.0)), limit=0)
    assert model.arrive(Job(), 0)
    assert not model.arrive(Job(), 5 * MS)


def test_a_cancelled_request_leaves_the_queue_and_a_running_one_runs_on_for_nobody() -> None:
    model = executor(Serial(Constant(10.0)))
    (running, waiting, last), _ = arrivals(model, [0, 0, 0])
    model.cancel(running, 0)
    model.cancel(waiting, 0)
    assert (model.waiting, model.executing, model.in_flight()) == (1, 1, 1)
    assert run_out(model) == [(20 * MS, last)]
    assert model.busy(20 * MS) == 20 * MS


def test_busy_counts_what_is_under_way() -> None:
    model = executor(Parallel(Constant(10.0), 2))
    arrivals(model, [0, 4])
    assert model.busy(6 * MS) == 8 * MS
    run_out(model)
    assert model.busy(100 * MS) == 20 * MS


# Batches


def batched(size: int = 4, wait: float = 5.0, fixed: float = 10.0, each: float = 1.0) -> Batched:
    return Batched(max_batch=size, max_wait_ms=wait, fixed_ms=fixed, per_item_ms=each)


def test_a_full_batch_starts_at_once() -> None:
    assert finishes_ms(executor(batched()), [0, 1, 2, 3]) == [17] * 4


def test_a_batch_waits_no_longer_than_its_oldest_may() -> None:
    assert finishes_ms(executor(batched()), [0, 1]) == [17, 17]


def test_while_a_batch_runs_the_next_one_gathers() -> None:
    # [0..3] runs from 3 to 17. 4, 5 and 6 have then waited their time, so they start together at 17.
    assert finishes_ms(executor(batched()), [0, 1, 2, 3, 4, 5, 6]) == [17] * 4 + [30] * 3


def test_more_than_a_batch_makes_two_in_order() -> None:
    assert finishes_ms(executor(batched()), [0] * 6) == [14] * 4 + [26] * 2


def test_no_waiting_means_batches_only_of_what_gathers_during_an_execution() -> None:
    assert finishes_ms(executor(batched(wait=0.0)), [0, 1, 2]) == [11, 23, 23]


def test_a_cancelled_request_is_not_part_of_a_batch() -> None:
    model = executor(batched())
    jobs, _ = arrivals(model, [0, 1, 1])
    model.cancel(jobs[0], 2 * MS)
    # The oldest is now the one of 1 ms: it may wait until 6; two items take 12.
    assert run_out(model) == [(18 * MS, jobs[1]), (18 * MS, jobs[2])]


def test_in_a_stall_a_batch_keeps_gathering() -> None:
    assert finishes_ms(executor(batched(), Timeline([Span(0, 100 * MS)])), [0, 50, 99]) == [113] * 3


# Windows


def test_a_stall_shifts_the_queue_behind_it() -> None:
    stalled = Timeline([Span(5 * MS, 100 * MS)])
    assert finishes_ms(executor(Serial(Constant(10.0)), stalled), [0, 1]) == [110, 120]
    assert finishes_ms(executor(Instant(), stalled), [4, 5, 104, 105]) == [4, 105, 105, 105]


def test_an_antagonist_slows_the_overlap() -> None:
    noisy = Timeline([Span(0, 20 * MS, every=40 * MS, factor=5.0)])
    # 20 ms of noise do 4 ms of work, quiet does the other 6; the second begins at 26: 14 quiet ms are enough.
    assert finishes_ms(executor(Serial(Constant(10.0)), noisy), [0, 0]) == [26, 36]


def test_a_new_speed_holds_for_what_is_under_way() -> None:
    model = executor(Serial(Constant(10.0)))
    arrivals(model, [0, 0])
    model.advance(4 * MS)
    model.change(4 * MS, Timeline([Span(4 * MS, 50 * MS)]))
    assert model.due == 60 * MS
    model.advance(54 * MS)
    model.change(54 * MS, Timeline([Span(0, NEVER, factor=2.0)]))
    assert [at for at, _ in run_out(model)] == [66 * MS, 86 * MS]


def test_a_stall_without_end_is_taken_back() -> None:
    model = executor(Serial(Constant(10.0)), Timeline([Span(4 * MS, NEVER)]))
    arrivals(model, [0, 0])
    assert model.advance(3600_000 * MS) == []
    assert model.due == NEVER
    model.change(5000 * MS, FREE)
    assert [at for at, _ in run_out(model)] == [5006 * MS, 5016 * MS]


def test_another_execution_takes_over_the_queue() -> None:
    model = executor(Serial(Constant(10.0)))
    arrivals(model, [0, 0, 0, 0])
    model.advance(5 * MS)
    model.change(5 * MS, FREE, Parallel(Constant(1.0), 3))
    # Two of the three that wait start beside the one under way; the work they are was drawn when they arrived.
    assert [at for at, _ in run_out(model)] == [10 * MS, 15 * MS, 15 * MS, 20 * MS]


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    model = executor(Serial(Constant(10.0)))
    arrivals(model, [0, 0])
    with pytest.raises(BenchError):
        model.change(0, Timeline([Span(0, NEVER)]), Serial(Empirical(str(tmp_path / "none"))))
    assert [at for at, _ in run_out(model)] == [10 * MS, 20 * MS]


# Invariants

GAPS = st.lists(st.integers(0, 30), min_size=1, max_size=40)
SPANS = st.lists(
    st.builds(
        Span,
        st.integers(0, 300 * MS),
        st.integers(1, 20 * MS),
        st.sampled_from([0, 70 * MS]),
        st.sampled_from([math.inf, 2.0]),
    ),
    max_size=2,
)
EXECUTIONS = st.sampled_from(
    [
        Instant(),
        Serial(Exponential(8.0)),
        Parallel(Exponential(20.0), 3),
        batched(),
        batched(size=1, wait=0.0),
        batched(size=8, wait=40.0, fixed=1.0),
    ]
)


@given(GAPS, SPANS, st.integers(1, 4))
def test_slots_work_as_a_queue_with_so_many_servers(gaps: list[int], spans: list[Span], slots: int) -> None:
    """Against the recursion for G/G/c in arrival order (Kiefer and Wolfowitz, 1955)."""
    timeline = Timeline(spans)
    model = executor(Parallel(Exponential(9.0), slots), timeline)
    times = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    jobs, finished = arrivals(model, [float(t) for t in times])
    at = {job: time for time, job in finished + run_out(model)}
    free = [0] * slots
    for job, time in zip(jobs, times, strict=True):
        start = timeline.clear(max(time * MS, heapq.heappop(free)))
        assert at[job] == timeline.finish(start, job.work)
        heapq.heappush(free, at[job])


@given(
    EXECUTIONS,
    SPANS,
    st.sampled_from([None, 0, 3]),
    st.lists(st.tuples(st.integers(0, 15), st.sampled_from("aaaact")), max_size=60),
    st.integers(0, 1000),
)
def test_no_request_is_lost_and_none_is_answered_twice(
    execution: Execution, spans: list[Span], limit: int | None, steps: list[tuple[int, str]], seed: int
) -> None:
    choice = Random(seed)
    model = executor(execution, Timeline(spans), limit)
    slots = {"serial": 1, "parallel": 3, "batched": 1}.get(execution.kind, 1 << 30)
    now, taken, refused, cancelled, done = 0, [], 0, set(), []
    for gap, step in steps:
        now += gap * MS
        done += model.advance(now)
        if step == "a":
            job = Job()
            if model.arrive(job, now):
                taken.append(job)
            else:
                refused += 1
                assert limit is not None
        elif step == "c" and (left := [job for job in taken if job not in cancelled and job not in done]):
            job = choice.choice(left)
            cancelled.add(job)
            model.cancel(job, now)
        elif step == "t":
            model.change(now, Timeline(spans[: choice.randint(0, len(spans))]))
        assert model.executing <= slots
        assert limit is None or model.waiting <= limit
        assert model.in_flight() == len(taken) - len(cancelled) - len(done)
    done += [job for _, job in run_out(model)]
    assert len(done) == len(set(done))
    assert set(done) == set(taken) - cancelled
    assert (model.waiting, model.executing, model.due) == (0, 0, NEVER)


@given(GAPS, st.integers(1, 8), st.integers(0, 30), st.integers(0, 12))
def test_batches_never_overlap_and_keep_the_order(gaps: list[int], size: int, wait: int, fixed: int) -> None:
    model = executor(Batched(size, float(wait), float(fixed), 1.0))
    times = [float(sum(gaps[: i + 1])) for i in range(len(gaps))]
    jobs, finished = arrivals(model, times)
    finished += run_out(model)
    assert [job for _, job in finished] == jobs
    batches: dict[int, list[Job]] = {}
    for at, job in finished:
        batches.setdefault(at, []).append(job)
    before = 0
    for at, batch in batches.items():
        start = at - (fixed + len(batch)) * MS
        assert len(batch) <= size
        assert start >= max(before, batch[-1].arrived)
        # It was full, or its oldest had waited long enough; and it did not wait any longer than that.
        full = batch[-1].arrived if len(batch) == size else NEVER
        assert start == max(before, min(full, batch[0].arrived + wait * MS))
        before = at
