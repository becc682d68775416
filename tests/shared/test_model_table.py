"""Series of models in the shared segment: who gets one, and who is counted with the others."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator

import pytest

from lb.errors import TidegateError
from lb.shared.model_table import ModelTable, PoolModels
from lb.shared.segment import Segment
from lb.shared.words import MODEL

WORD = MODEL.place("requests.2xx")


@pytest.fixture
def master() -> Iterator[Segment]:
    made = Segment.create(4, endpoint_capacity=4, series_capacity=8, models=8)
    yield made
    made.close()


def worker(master: Segment, number: int = 0, pool: str = "p") -> PoolModels:
    return PoolModels(Segment.attach(os.dup(master.fd), number), pool)


def counts(master: Segment) -> dict[tuple[str, str], int]:
    rows = ModelTable(master).rows()
    assert len({number for _, _, number in rows}) == len(rows)
    return {(pool, model): n for pool, model, number in rows if (n := master.series_total(number)[WORD])}


def test_a_model_has_a_series_from_its_first_answer_on_in_all_workers(master: Segment) -> None:
    assert ModelTable(master).rows() == []
    one, two = worker(master, 0), worker(master, 3)
    one.add(b"m", False, WORD)
    assert counts(master) == {("p", "other"): 1}
    two.add(b"m", True, WORD, 10)
    one.add(b"m", False, WORD, 100)  # an error of a model that exists
    worker(master, 1, "q").add(b"m", True, WORD, 1000)
    assert counts(master) == {("p", "other"): 1, ("p", "m"): 110, ("q", "m"): 1000}
    assert ModelTable(master).used == 4, "each pool has other"


def test_models_that_find_no_room_are_counted_together(master: Segment) -> None:
    models = worker(master)
    for i in range(40):
        models.add(b"m%d" % i, True, WORD)
    found = counts(master)
    assert sum(found.values()) == 40
    assert found["p", "other"] == 40 - 6, "other has one of seven series"
    assert ModelTable(master).used == ModelTable(master).capacity == 7
    worker(master, 0, "q").add(b"m", True, WORD)
    assert counts(master)["", "other"] == 1, "even other of a further pool finds no room"


@pytest.mark.parametrize("name", [b"", b"a\0b", b"\xff\xfe", b"x" * 255])
def test_what_is_no_name_is_counted_with_the_others(master: Segment, name: bytes) -> None:
    worker(master).add(name, True, WORD)
    assert counts(master) == {("p", "other"): 1}


@pytest.mark.parametrize("name", ['"><script>', "two\nlines", "x" * 200, "modèle 🎈", "\x1b[31m", "other"])
def test_any_name_is_kept_as_it_is(master: Segment, name: str) -> None:
    worker(master).add(name.encode(), True, WORD)
    assert counts(master) == {("p", name): 1}


def test_the_master_reads_and_does_not_count(master: Segment) -> None:
    with pytest.raises(TidegateError, match="no stripe"):
        PoolModels(master, "p").add(b"m", True, WORD)
    with pytest.raises(ValueError, match="amount"):
        worker(master).add(b"m", True, WORD, -1)
    with pytest.raises(ValueError, match="models"):
        Segment.create(1, models=1 << 17)


def _race(fd: int, number: int, rounds: int) -> None:
    models = PoolModels(Segment.attach(fd, number), "p")
    for i in range(rounds):
        models.add(b"m%d" % i, True, WORD)


def test_workers_that_meet_a_model_at_once_give_it_one_series() -> None:
    master = Segment.create(4, endpoint_capacity=4, series_capacity=8, models=2048)
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_race, args=(os.dup(master.fd), n, 400)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert counts(master) == {("p", f"m{i}"): 4 for i in range(400)}
    master.close()
