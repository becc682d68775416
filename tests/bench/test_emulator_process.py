"""A real fleet serves by its model and its plans. Lower bounds of time are exact; there are no upper ones but the
timeouts, so a busy machine breaks nothing.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from emulator_fleet import MS, SLOW, TIMEOUT, adds_up, infer, running

from bench.emulator.control import ClearNow, FailNow, ServeAs, SlowNow, StallNow
from bench.emulator.spec import Batched, Constant, Exponential, FailHow, Failure, Serial, Service, Stall
from bench.errors import BenchError
from lb.wire import grpc_service_pb2 as oip
from lb.wire.services import INFERENCE, Stub


def test_serial_executions_wait_for_one_another(tmp_path: Path) -> None:
    with running(tmp_path, Service(Serial(Constant(60.0)))) as fleet, ThreadPoolExecutor(4) as pool:
        began = time.monotonic_ns()
        assert {status for status, _ in pool.map(lambda _: fleet.get(), range(4))} == {200}
        assert time.monotonic_ns() - began >= 240 * MS
        assert fleet.stats()["busy_ns"] == pytest.approx(240 * MS, abs=4)


def test_a_batch_starts_when_it_is_full(tmp_path: Path) -> None:
    batched = Batched(max_batch=4, max_wait_ms=3_600_000.0, fixed_ms=5.0, per_item_ms=1.0)
    with running(tmp_path, Service(batched)) as fleet, fleet.channel() as channel, ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(infer, channel) for _ in range(3)]
        fleet.wait(lambda stats: stats["waiting"] == 3)
        assert fleet.stats()["executing"] == 0
        assert fleet.get()[0] == 200
        assert all(future.result(TIMEOUT).model_name == "model" for future in futures)
        assert fleet.stats()["busy_ns"] == 9 * MS


def test_clients_that_go_away_free_the_queue(tmp_path: Path) -> None:
    with running(tmp_path, Service(Serial(Constant(1.0)))) as fleet, fleet.channel() as channel:
        fleet.control.plan(StallNow())
        stub = Stub(channel, INFERENCE)
        calls = [stub.ModelInfer.future(oip.ModelInferRequest(), timeout=TIMEOUT) for _ in range(5)]
        client = fleet.connect()
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert fleet.wait(lambda stats: stats["waiting"] == 6)["queue_max"] == 6
        calls[1].cancel()
        calls[3].cancel()
        client.close()
        assert fleet.wait(lambda stats: stats["waiting"] == 3)["cancelled"] == 3
        fleet.control.plan(ClearNow())
        assert all(calls[i].result(TIMEOUT).model_name == "model" for i in (0, 2, 4))
        stats = fleet.stats()
        assert (stats["answered"], stats["busy_ns"]) == (3, 3 * MS)
        assert adds_up(stats)


def test_a_stall_now_holds_answers_until_its_end(tmp_path: Path) -> None:
    with running(tmp_path, Service(), Service()) as fleet, fleet.channel() as channel:
        infer(channel)
        begun = fleet.control.plan(StallNow(servers=(0,), for_ms=300.0))
        assert fleet.get(1)[0] == 200
        assert fleet.stats(0)["answered"] == 1
        infer(channel)
        assert time.monotonic_ns() >= begun + 300 * MS
        # A stalled process answers its health checks no sooner.
        begun = fleet.control.plan(StallNow(servers=(0,), for_ms=300.0))
        assert fleet.get(path="/v2/health/live")[0] == 200
        assert time.monotonic_ns() >= begun + 300 * MS


def test_a_stall_delays_what_is_under_way(tmp_path: Path) -> None:
    with running(tmp_path, Service(Serial(Constant(50.0)))) as fleet, ThreadPoolExecutor(1) as pool:
        future = pool.submit(fleet.get)
        fleet.wait(lambda stats: stats["executing"] == 1)
        begun = fleet.control.plan(StallNow(for_ms=250.0))
        assert future.result(TIMEOUT)[0] == 200
        assert time.monotonic_ns() >= begun + 250 * MS


def test_planned_windows_count_from_start(tmp_path: Path) -> None:
    with running(tmp_path, Service(stalls=(Stall(0.0, 300.0),)), epoch="start") as fleet:
        assert fleet.control.stats()["epoch_ns"] is None
        assert fleet.get()[0] == 200
        ahead = time.monotonic_ns() + 3600_000 * MS
        assert fleet.control.start(ahead) == ahead
        assert fleet.get()[0] == 200
        epoch = fleet.control.start()
        assert fleet.get()[0] == 200
        assert time.monotonic_ns() >= epoch + 300 * MS
        assert fleet.control.stats()["epoch_ns"] == epoch


def test_planned_windows_count_from_the_process(tmp_path: Path) -> None:
    with running(tmp_path, Service(stalls=(Stall(0.0, 1500.0),))) as fleet:
        epoch = fleet.control.stats()["epoch_ns"]
        assert fleet.get()[0] == 200
        assert time.monotonic_ns() >= epoch + 1500 * MS


def test_slower_by_a_factor(tmp_path: Path) -> None:
    with running(tmp_path, Service(Serial(Constant(20.0)))) as fleet:
        fleet.control.plan(SlowNow(10.0))
        began = time.monotonic_ns()
        assert fleet.get()[0] == 200
        assert time.monotonic_ns() - began >= 200 * MS
        fleet.control.plan(ClearNow())
        before = fleet.stats()["busy_ns"]
        assert fleet.get()[0] == 200
        assert fleet.stats()["busy_ns"] - before == 20 * MS


def test_another_service_while_it_runs(tmp_path: Path) -> None:
    with running(tmp_path, SLOW, SLOW) as fleet:
        fleet.control.plan(ServeAs(Service(), servers=(1,)))
        assert fleet.get(1)[0] == 200


def test_failures_are_answered_and_counted(tmp_path: Path) -> None:
    with running(tmp_path, Service()) as fleet, fleet.channel() as channel:
        fleet.control.plan(FailNow())
        assert fleet.get() == (503, b'{"error": "planned failure"}')
        assert fleet.get(path="/v2/health/ready")[0] == 503
        with pytest.raises(grpc.RpcError) as caught:
            infer(channel)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        fleet.control.plan(ClearNow())
        assert fleet.get()[0] == 200
        assert infer(channel).model_name == "model"
        stats = fleet.stats()
        assert (stats["received"], stats["failed"], stats["answered"]) == (4, 2, 2)


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        ("unavailable", 503, grpc.StatusCode.UNAVAILABLE),
        ("error", 500, grpc.StatusCode.INTERNAL),
        ("limited", 429, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_failures_are_of_several_kinds(tmp_path: Path, how: FailHow, status: int, code: grpc.StatusCode) -> None:
    """Asked for, and planned from the start."""
    hour = 3_600_000.0
    with running(tmp_path, Service(), Service(failures=(Failure(0, hour, how=how),))) as fleet:
        fleet.control.plan(FailNow((0,), how))
        for server in (0, 1):
            assert fleet.get(server) == (status, b'{"error": "planned failure"}')
            with fleet.channel(server) as channel, pytest.raises(grpc.RpcError) as caught:
                infer(channel)
            assert caught.value.code() == code
            assert fleet.stats(server)["failed"] == 2


def test_a_reset_takes_the_connection_with_all_that_is_on_it(tmp_path: Path) -> None:
    with running(tmp_path, SLOW) as fleet, fleet.channel() as channel:
        stub = Stub(channel, INFERENCE)
        under_way = [stub.ModelInfer.future(oip.ModelInferRequest(), timeout=TIMEOUT) for _ in range(2)]
        fleet.wait(lambda stats: stats["in_flight"] == 2)
        fleet.control.plan(FailNow(how="reset"))
        with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
            fleet.get()
        with pytest.raises(grpc.RpcError) as caught:
            infer(channel)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert [call.code() for call in under_way] == [grpc.StatusCode.UNAVAILABLE] * 2
        stats = fleet.stats()
        assert (stats["failed"], stats["cancelled"], stats["in_flight"]) == (stats["received"], 0, 0)


def test_a_full_queue_refuses(tmp_path: Path) -> None:
    with running(tmp_path, Service(Serial(Constant(3_600_000.0)), max_queue=1)) as fleet:
        kept = []
        for count in (1, 2):
            kept.append(fleet.connect())
            kept[-1].sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            fleet.wait(lambda stats, count=count: stats["in_flight"] == count)  # type: ignore[misc]
        assert fleet.get() == (503, b'{"error": "the queue is full"}')
        with fleet.channel() as channel, pytest.raises(grpc.RpcError) as caught:
            infer(channel)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        stats = fleet.stats()
        assert (stats["rejected"], stats["queue_max"], stats["in_flight"]) == (2, 1, 2)
        for client in kept:
            client.close()


def test_the_seed_decides_the_times(tmp_path: Path) -> None:
    busy = []
    for seed in (1, 1, 2):
        with running(tmp_path, Service(Serial(Exponential(2.0))), seed=seed) as fleet:
            for _ in range(5):
                fleet.get()
            busy.append(fleet.stats()["busy_ns"])
    assert busy[0] == busy[1] != busy[2]


def test_lateness_is_told(tmp_path: Path) -> None:
    with running(tmp_path, Service(Serial(Constant(1.0)))) as fleet:
        for _ in range(3):
            fleet.get()
        lateness = fleet.control.stats()["lateness"]
        assert lateness["ticks"] == 3
        assert 0 < lateness["late_mean_ns"] <= lateness["late_max_ns"]


def test_the_control_port_refuses_with_a_reason(tmp_path: Path) -> None:
    with running(tmp_path, Service()) as fleet:
        with pytest.raises(BenchError, match="there is no server 7"):
            fleet.control.plan(StallNow(servers=(7,)))
        with pytest.raises(BenchError, match=r"plan: .*factor"):
            fleet.control._ask("POST", "/plan", b'{"do": "slow", "factor": 0.5}')
        with pytest.raises(BenchError, match="takes POST"):
            fleet.control._ask("GET", "/start", None)
        with pytest.raises(BenchError, match=r"there is no /x; there are /stats"):
            fleet.control._ask("GET", "/x", None)
    with pytest.raises(BenchError, match="does not answer"):
        fleet.control.stats()


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "bench.emulator", "--port", str(port)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert ended.returncode == 1
    assert str(port) in ended.stderr
    assert ended.stderr.count("\n") == 1
