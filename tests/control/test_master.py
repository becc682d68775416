"""The daemon as a process: start, serve, lose workers, stop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from children import ENVIRONMENT
from control_daemon import STANDIN, Daemon, alive, ask, configuration, daemon, eventually, listener
from ports import free_port


def fails(folder: Path, config: dict | str, path: Path | None = None) -> str:
    """The standard error of a start that fails."""
    file = folder / "tidegate.yaml"
    file.write_text(config if isinstance(config, str) else __import__("json").dumps(config))
    done = subprocess.run(
        [sys.executable, str(STANDIN), "run", str(path or file)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": ENVIRONMENT["PYTHONPATH"]},
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_serves_with_every_worker_and_says_so(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        status = running.status()
        assert status["state"] == "running"
        assert status["generation"] == 1
        pids = {worker["pid"] for worker in status["workers"]}
        assert len(pids) == 2
        assert all(w["state"] == "running" and w["generation"] == 1 for w in status["workers"])
        eventually(lambda: running.get()["pid"] in pids, "an answer of a worker")
        assert status["compiled"]["lb.shared.segment"] is True
        (pool,) = status["pools"]
        assert pool["endpoints"][0]["health"] == "unchecked"
        titles = [Path(f"/proc/{w['pid']}/cmdline").read_text().rstrip("\0 ") for w in status["workers"]]
        assert titles == ["tidegate: worker 0", "tidegate: worker 1"]


def test_a_killed_worker_is_replaced_and_the_port_never_refuses(tmp_path: Path) -> None:
    config = configuration(tmp_path, workers=1)
    with daemon(tmp_path, config) as running:
        stop = threading.Event()
        refused: list[Exception] = []
        answered = [0]

        def load() -> None:
            while not stop.is_set():
                try:
                    connection = running.connect()
                except OSError as error:  # only connecting counts: an exchange may die with its worker
                    refused.append(error)
                    return
                with contextlib.closing(connection), contextlib.suppress(Exception):
                    ask(connection)
                    answered[0] += 1

        client = threading.Thread(target=load)
        client.start()
        for round_number in range(3):
            (worker,) = running.workers()
            os.kill(worker["pid"], signal.SIGKILL)
            eventually(lambda n=round_number: running.workers()[0]["restarts"] == n + 1, "the restart is counted")
            eventually(lambda: running.workers()[0]["state"] == "running", "a new worker runs")
            before = answered[0]
            eventually(lambda b=before: answered[0] > b, "the new worker serves")
        stop.set()
        client.join()
        assert not refused
        assert running.workers()[0]["last_exit"] == "signal SIGKILL"


def test_the_in_flight_count_of_a_killed_worker_goes_back_to_zero(tmp_path: Path) -> None:
    config = configuration(tmp_path, workers=1)
    with daemon(tmp_path, config) as running:
        held = running.connect()
        held.request("GET", "/hold/600")
        in_flight = lambda: running.status()["pools"][0]["endpoints"][0]["in_flight"]  # noqa: E731
        eventually(lambda: in_flight() == 1, "the request is in flight")
        os.kill(running.workers()[0]["pid"], signal.SIGKILL)
        eventually(lambda: in_flight() == 0, "the dead worker's column is cleared")
        held.close()


def test_a_worker_that_starts_while_the_daemon_stops_stops_too(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        pid = running.workers()[0]["pid"]
        wait = tmp_path / "wait-at-start"
        wait.touch()
        os.kill(pid, signal.SIGKILL)
        starting = lambda: [w["pid"] for w in running.workers() if w["state"] == "starting" and w["pid"]]  # noqa: E731
        eventually(starting, "a new process")
        running.signal(signal.SIGTERM)
        eventually(lambda: "stopping: no new connections" in running.log, "the stop")
        wait.unlink()  # it is there only now
        assert running.wait_exit() == 0
        assert "Traceback" not in running.log
        assert running.log.count("ended: exit code 0") == 2


def test_a_hanging_worker_is_killed_and_replaced(tmp_path: Path) -> None:
    config = configuration(tmp_path, workers=1)
    with daemon(tmp_path, config) as running:
        pid = running.workers()[0]["pid"]
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: running.workers()[0]["pid"] not in (pid, None), "a new process")
        assert not alive(pid)
        assert "hangs" in running.log


def test_a_worker_that_dies_again_and_again_is_replaced_at_once_each_time(tmp_path: Path) -> None:
    with daemon(tmp_path, configuration(tmp_path, workers=1)) as running:
        for death in range(1, 13):
            pid = running.get()["pid"]
            os.kill(pid, signal.SIGKILL)
            # It waits in the queue of the port until there is a worker again.
            assert running.get()["pid"] != pid
            (worker,) = running.workers()
            assert (worker["state"], worker["restarts"]) == ("running", death)
        assert running.log.count("signal SIGKILL") == 12
        assert "next start in" not in running.log


def test_workers_that_cannot_start_are_in_a_crash_loop_and_come_back(tmp_path: Path) -> None:
    with daemon(tmp_path, configuration(tmp_path, workers=1)) as running:
        die = tmp_path / "die-at-start"
        die.touch()
        os.kill(running.workers()[0]["pid"], signal.SIGKILL)
        eventually(lambda: running.workers()[0]["state"] == "crash_loop", "the crash loop shows in status")
        assert "next start in" in running.log
        die.unlink()
        eventually(lambda: running.workers()[0]["state"] == "running", "it is tried again")
        assert running.get()["generation"] == 1


def fork_servers(running: Daemon) -> set[int]:
    """The only children of the master, where there are no model servers."""
    return {process.pid for process in psutil.Process(running.process.pid).children()}


def test_workers_outlive_the_fork_server_and_another_takes_its_place(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        workers, (server,) = {worker["pid"] for worker in running.workers()}, fork_servers(running)
        os.kill(server, signal.SIGKILL)
        eventually(lambda: fork_servers(running) - {server}, "another fork server")
        assert {worker["pid"] for worker in running.workers()} == workers
        assert f"the fork server (pid {server}) died: signal SIGKILL" in running.log
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: all(w["state"] == "running" and w["restarts"] for w in running.workers()), "new workers")
        assert running.log.count("died: unknown exit status") == 2
        assert running.get()["generation"] == 1


def test_a_worker_and_the_fork_server_die_together(tmp_path: Path) -> None:
    with daemon(tmp_path, configuration(tmp_path, workers=1)) as running:
        (worker,), (server,) = running.workers(), fork_servers(running)
        os.kill(server, signal.SIGSTOP)  # so that it cannot tell of the other
        os.kill(worker["pid"], signal.SIGKILL)
        os.kill(server, signal.SIGKILL)
        assert running.get()["pid"] != worker["pid"]


def test_a_fork_server_that_hangs_is_killed_and_replaced(tmp_path: Path) -> None:
    with daemon(tmp_path, configuration(tmp_path, workers=1)) as running:
        (worker,), (server,) = running.workers(), fork_servers(running)
        os.kill(server, signal.SIGSTOP)
        os.kill(worker["pid"], signal.SIGKILL)
        assert running.get()["pid"] != worker["pid"]
        assert "the fork server makes no worker: killing it" in running.log
        assert not alive(server)


def test_no_process_is_left_when_the_daemon_has_stopped(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        family = psutil.Process(running.process.pid).children(recursive=True)
        assert len(family) == 3
        running.signal(signal.SIGTERM)
        assert running.wait_exit() == 0
        assert not any(process.is_running() for process in family)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_drains_what_runs_and_refuses_the_rest(tmp_path: Path, number: signal.Signals) -> None:
    with daemon(tmp_path) as running:
        held = running.connect()
        held.request("GET", "/hold/1.5")
        eventually(lambda: running.status()["pools"][0]["endpoints"][0]["in_flight"] == 1, "it is in flight")
        pids = [worker["pid"] for worker in running.workers()]
        running.signal(number)

        def refuses() -> bool:
            try:
                running.connect().close()
            except ConnectionRefusedError:
                return True
            return False

        eventually(refuses, "new connections are refused")
        response = held.getresponse()
        assert response.status == 200
        assert response.getheader("Connection") == "close"
        assert running.wait_exit() == 0
        assert not any(alive(pid) for pid in pids)


def test_a_drain_ends_at_its_timeout(tmp_path: Path) -> None:
    with daemon(tmp_path, configuration(tmp_path, shutdown={"drain_timeout": "200ms"})) as running:
        held = running.connect()
        held.request("GET", "/hold/600")
        eventually(lambda: running.status()["pools"][0]["endpoints"][0]["in_flight"] == 1, "it is in flight")
        running.signal(signal.SIGTERM)
        assert running.wait_exit() == 0
        assert "cut off" in running.log


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    with daemon(tmp_path, configuration(tmp_path, shutdown={"drain_timeout": "10m"})) as running:
        held = running.connect()
        held.request("GET", "/hold/600")
        eventually(lambda: running.status()["pools"][0]["endpoints"][0]["in_flight"] == 1, "it is in flight")
        running.signal(signal.SIGTERM)
        eventually(lambda: "stopping" in running.log, "the drain has begun")
        running.signal(signal.SIGTERM)
        assert running.wait_exit() == 0


def test_workers_end_when_the_master_is_killed(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        pids = [worker["pid"] for worker in running.workers()]
        port = running.address()
        running.process.kill()
        running.wait_exit()
        eventually(lambda: not any(alive(pid) for pid in pids), "the workers are gone")
        with pytest.raises(ConnectionRefusedError):
            running.connect(port)


def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        error = fails(tmp_path, configuration(tmp_path, listeners={"web": listener(bind)}))
    assert error == f"tidegate: cannot listen on {bind}: the address is in use (ss -lntup shows by whom)\n"


def test_a_bad_configuration_is_one_line_each(tmp_path: Path) -> None:
    error = fails(tmp_path, configuration(tmp_path, workers=0, listeners={"web": listener("127.0.0.1:0", "nowhere")}))
    lines = error.splitlines()
    assert len(lines) == 2
    assert any("workers: " in line for line in lines)
    assert any("nowhere" in line for line in lines)
    assert all("tidegate.yaml:" in line for line in lines)


def test_a_missing_configuration(tmp_path: Path) -> None:
    error = fails(tmp_path, {}, tmp_path / "none.yaml")
    assert error.count("\n") == 1
    assert "none.yaml: cannot be read: No such file or directory" in error


def test_workers_that_cannot_start_fail_the_start(tmp_path: Path) -> None:
    error = fails(tmp_path, configuration(tmp_path, listeners={"die": listener("127.0.0.1:0")}))
    assert "worker 0: died (exit code 3)" in error


def test_a_refused_first_plan_fails_the_start(tmp_path: Path) -> None:
    error = fails(tmp_path, configuration(tmp_path, listeners={"refused": listener("127.0.0.1:0")}))
    assert "worker 0: the plan is refused" in error


def test_unix_sockets_ipv6_and_a_stale_socket(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    listeners = {"local": listener(f"unix:{path}"), "six": listener("[::1]:0")}
    with daemon(tmp_path, configuration(tmp_path, listeners=listeners)) as running:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(str(path))
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        assert running.get(address=running.address("six").replace("[::1]", "::1"))["listener"] == "six"
        running.signal(signal.SIGTERM)
        assert running.wait_exit() == 0
        assert not path.exists()


def test_the_access_log_is_written_and_reopened(tmp_path: Path) -> None:
    path = tmp_path / "access.txt"
    with daemon(tmp_path, configuration(tmp_path, log={"access": str(path)})) as running:
        running.get("/one")
        eventually(lambda: "/one" in path.read_text(), "the first record")
        path.rename(tmp_path / "access.1")
        running.signal(signal.SIGUSR1)
        eventually(path.exists, "a new file")
        eventually(lambda: running.get("/two") and "/two" in path.read_text(), "records in the new file")
        for worker in running.workers():
            links = [os.readlink(f"/proc/{worker['pid']}/fd/{fd}") for fd in os.listdir(f"/proc/{worker['pid']}/fd")]
            assert str(tmp_path / "access.1") not in links


def test_an_access_log_that_nobody_reads_fails_the_reload_and_not_the_daemon(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    config = configuration(tmp_path)
    with daemon(tmp_path, config) as running:
        running.write({**config, "log": {"access": str(pipe)}})
        try:
            assert "nobody reads from this FIFO" in running.client.reload()["error"]
        finally:  # frees a master that waits for it
            reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        assert running.client.reload()["ok"]
        os.close(reader)


def test_a_start_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    running = Daemon(tmp_path, configuration(tmp_path, workers=1), start_new_session=True)
    # The master sets its title when its handlers are about to be in place.
    title = Path(f"/proc/{running.process.pid}/cmdline")
    eventually(lambda: title.read_bytes().startswith(b"tidegate: master"), "the master begins")
    eventually(lambda: _handles(running.process.pid, signal.SIGTERM), "the handler is in place")
    running.signal(signal.SIGTERM)
    assert running.wait_exit() == 0
    assert "Traceback" not in running.log


def _handles(pid: int, number: signal.Signals) -> bool:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def test_ports_below_are_free_for_others(tmp_path: Path) -> None:
    """Two daemons on one port: the second fails and the first goes on."""
    bind = f"127.0.0.1:{free_port()}"
    with daemon(tmp_path, configuration(tmp_path, listeners={"web": listener(bind)})) as running:
        other = tmp_path / "other"
        other.mkdir()
        assert "in use" in fails(other, configuration(other, listeners={"web": listener(bind)}))
        assert running.get(address=bind)["generation"] == 1
