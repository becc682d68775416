"""The shared segment: layout, attach checks, and the master's view of what workers write."""

import contextlib
import fcntl
import os
import struct
import subprocess
import sys

import pytest
from children import ENVIRONMENT
from compiled.endpoint_set import set_report
from compiled.shared_segment import add_inflight, add_outstanding, health_changed

from lb.endpoints.set import EndpointSet
from lb.errors import TidegateError
from lb.shared import segment
from lb.shared.segment import Segment
from lb.shared.words import SIZE

STARTED, FINISHED, WORDS = 0, 1, SIZE


@pytest.fixture
def master():
    segment = Segment.create(3, endpoint_capacity=64, series_capacity=32, cache_size=100_000)
    yield segment
    segment.close()


@contextlib.contextmanager
def attached(master, worker):
    segment = Segment.attach(os.dup(master.fd), worker)
    try:
        yield segment
    finally:
        segment.close()


def test_is_compiled():
    assert segment.__file__.endswith(".so")


def test_create_and_attach_agree(master):
    assert os.get_inheritable(master.fd)
    assert master.cache_size == 102_400  # whole pages
    with attached(master, 2) as worker:
        assert (worker.worker, worker.workers, worker.endpoint_capacity, worker.series_capacity) == (2, 3, 64, 32)
        assert worker.cache_secret == master.cache_secret
        assert len(set(master.cache_secret)) > 8


def test_secret_differs_between_segments(master):
    other = Segment.create(1)
    assert other.cache_secret != master.cache_secret
    other.close()


def test_size_is_sealed(master):
    size = os.fstat(master.fd).st_size
    for wrong in (0, size - 1, size + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(master.fd, wrong)


@pytest.mark.parametrize(
    "arguments",
    [{"workers": 0}, {"workers": 129}, {"workers": 1, "endpoint_capacity": 0}, {"workers": 1, "cache_size": -1}],
)
def test_create_refuses_impossible_numbers(arguments):
    with pytest.raises(ValueError, match="must be"):
        Segment.create(**arguments)


def test_control_words_are_seen_by_workers(master):
    master.set_key(5, "digits|127.0.0.1:9001")
    master.set_health(5, True, 123)
    master.set_weight(5, 7)
    master.set_admin(5, 1)
    with attached(master, 0) as worker:
        assert worker.key(5) == "digits|127.0.0.1:9001"
        assert (worker.health(5), worker.weight(5), worker.admin(5)) == (1, 7, 1)
        assert health_changed(worker, 5) == 123
    master.set_health(5, True, 500)
    assert health_changed(master, 5) == 123  # no change, no new time
    master.set_health(5, False, 600)
    assert (master.health(5), health_changed(master, 5)) == (2, 600)


def test_slot_reuse_starts_afresh(master):
    master.set_key(1, "old|" + "x" * 300)
    assert len(master.key(1)) == 127
    master.set_health(1, True, 1)
    master.set_weight(1, 9)
    generation = master.generation(1)
    with attached(master, 0) as worker:
        set_report(EndpointSet(worker, ["old"], [1]), 0, 0.75, 120.0, 2.5, 77)
    assert master.load_report(1) == (0.75, 120.0, 2.5, 77)
    master.clear_slot(1)
    assert master.load_report(1) == (0, 0, 0, 0)
    assert master.key(1) == ""
    assert (master.health(1), master.weight(1), master.admin(1), health_changed(master, 1)) == (0, 0, 0, 0)
    master.set_key(1, "new")
    assert master.key(1) == "new"
    assert master.generation(1) == generation + 2
    assert master.key(0) == master.key(2) == ""


def test_clear_slot_keeps_requests_in_flight(master):
    with attached(master, 1) as worker:
        add_inflight(worker, 3, 2)
        master.clear_slot(3)
        assert master.inflight(3) == 2
        add_inflight(worker, 3, -2)
    assert master.inflight(3) == 0


def test_inflight_is_summed_and_a_dead_workers_column_cleared(master):
    for number in range(3):
        with attached(master, number) as worker:
            add_inflight(worker, 10, number + 1)
            add_inflight(worker, 63, 1)
            add_outstanding(worker, 10, number + 1.5)
    assert (master.inflight(10), master.inflight(63), master.inflight(11)) == (6, 3, 0)
    lost = master.clear_worker(2)
    assert sorted(lost) == [(10, 3, 896), (63, 1, 0)]
    assert (master.inflight(10), master.inflight(63)) == (6, 3)
    assert master.outstanding(10) == 7.5
    master.forget(lost)
    assert master.outstanding(10) == 4
    assert (master.inflight(10), master.inflight(63)) == (3, 2)
    assert master.clear_worker(2) == []


def test_series_are_summed_and_gaps_of_a_dead_worker_closed(master):
    for number in range(3):
        with attached(master, number) as worker:
            worker.add_series(4, STARTED, 10)
            worker.add_series(4, FINISHED, 10 - number)
            worker.add_series(31, WORDS - 1, 5)
    total = master.series_total(4)
    assert len(total) == WORDS
    assert (total[STARTED], total[FINISHED]) == (30, 27)
    master.clear_worker(2)
    assert master.series_total(4)[FINISHED] == 29
    assert master.series_total(31)[WORDS - 1] == 15
    master.clear_series(4)
    assert master.series_total(4) == [0] * WORDS
    assert master.series_total(31)[WORDS - 1] == 15


def test_counters_outlive_the_death_of_a_worker(master):
    code = (
        "import os, signal, sys; from lb.shared.segment import Segment\n"
        "from compiled.shared_segment import add_inflight\n"
        "s = Segment.attach(int(sys.argv[1]), 1)\n"
        "s.add_series(0, 2, 41); add_inflight(s, 2, 4); os.kill(os.getpid(), signal.SIGKILL)"
    )
    child = subprocess.run([sys.executable, "-c", code, str(master.fd)], pass_fds=[master.fd], env=ENVIRONMENT)
    assert child.returncode == -9
    assert master.series_total(0)[2] == 41
    assert master.inflight(2) == 4
    master.forget(master.clear_worker(1))
    assert master.inflight(2) == 0
    with attached(master, 1) as replacement:
        replacement.add_series(0, 2)
    assert master.series_total(0)[2] == 42


def test_the_master_has_no_column_and_no_stripe(master):
    with pytest.raises(TidegateError, match="no stripe"):
        master.add_series(0, 0)
    with pytest.raises(TidegateError, match="no in-flight"):
        add_inflight(master, 0, 1)


@pytest.mark.parametrize("slot", [-1, 64])
def test_slots_out_of_range(master, slot):
    for call in (master.health, master.inflight, master.clear_slot, master.key):
        with pytest.raises(IndexError):
            call(slot)
    with pytest.raises(IndexError):
        master.set_weight(slot, 1)


def test_a_series_is_the_same_in_bytes(master):
    with attached(master, 0) as one, attached(master, 2) as two:
        one.add_series(7, 3, 5)
        two.add_series(7, 3, 1 << 40)
        two.add_series(7, SIZE - 1)
    words = list(struct.unpack(f"={SIZE}Q", master.series_bytes(7)))
    assert words == master.series_total(7)
    assert (words[3], words[-1]) == ((1 << 40) + 5, 1)


def test_series_and_workers_out_of_range(master):
    for call in (master.series_total, master.series_bytes, master.clear_series):
        with pytest.raises(IndexError):
            call(32 + master.models)
    with pytest.raises(IndexError):
        master.clear_worker(3)


def test_closed_segment_refuses(master):
    with attached(master, 0) as worker:
        pass
    with pytest.raises(TidegateError, match="closed"):
        worker.health(0)
    assert repr(worker) == "<Segment closed>"
    worker.close()  # twice is harmless


def sealed_copy(master, patches=(), grow=0, seal=True):
    """A memfd with the segment's bytes, `patches` of (offset, bytes) applied, and `grow` bytes more or fewer."""
    size = os.fstat(master.fd).st_size
    fd = os.memfd_create("copy", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, max(0, size + grow))
    os.pwrite(fd, os.pread(master.fd, 4096, 0), 0)  # the header has a page
    for offset, content in patches:
        os.pwrite(fd, content, offset)
    if seal:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, segment.SEALS)
    return fd


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patches": [(0, b"\0" * 8)]}, "magic"),
        ({"patches": [(8, struct.pack("<I", 99))]}, "layout 99"),
        ({"patches": [(132, struct.pack("<I", 7))]}, "series of other words"),
        ({"patches": [(12, struct.pack("<I", 0))]}, "impossible"),
        ({"patches": [(12, struct.pack("<I", 5))]}, "does not match"),
        ({"patches": [(24, struct.pack("<Q", 1 << 60))]}, "does not match"),
        ({"grow": 4096}, "does not match"),
        ({"grow": -4096}, "does not match"),
        ({"seal": False}, "not sealed"),
    ],
)
def test_attach_refuses_what_is_no_segment(master, change, message):
    fd = sealed_copy(master, **change)
    with pytest.raises(TidegateError, match=message):
        Segment.attach(fd, 0)
    os.close(fd)  # still ours


def test_attach_accepts_an_intact_copy(master):
    Segment.attach(sealed_copy(master), 0).close()


def test_attach_refuses_other_descriptors(master, tmp_path):
    with (tmp_path / "file").open("wb") as file, pytest.raises(TidegateError, match="not a shared segment"):
        Segment.attach(file.fileno(), 0)
    reader, writer = os.pipe()
    with pytest.raises(TidegateError, match="not a shared segment"):
        Segment.attach(reader, 0)
    os.close(reader)
    os.close(writer)
    fd = os.memfd_create("short", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, segment.SEALS)
    with pytest.raises(TidegateError, match="too small"):
        Segment.attach(fd, 0)
    os.close(fd)


@pytest.mark.parametrize("worker", [-2, 3])
def test_attach_refuses_unknown_workers(master, worker):
    fd = os.dup(master.fd)
    with pytest.raises(TidegateError, match="not one of"):
        Segment.attach(fd, worker)
    os.close(fd)


def test_close_gives_the_descriptor_back():
    segment = Segment.create(1)
    fd = segment.fd
    segment.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
