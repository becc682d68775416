"""Reload: everything or nothing, under load, without a leak."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from control_daemon import Daemon, alive, ask, configuration, daemon, eventually, listener, open_files
from ports import free_port


def reload(running: Daemon, config: dict[str, Any] | str) -> dict[str, Any]:
    running.write(config)
    return running.client.reload()


def test_sighup_applies_a_new_listener_and_keeps_open_connections(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    with daemon(tmp_path, config) as running:
        kept = running.connect()
        first = ask(kept)
        config["listeners"]["more"] = listener("127.0.0.1:0")
        running.write(config)
        running.signal(signal.SIGHUP)
        eventually(lambda: running.status()["generation"] == 2, "the second plan")
        status = running.status()
        assert [w["generation"] for w in status["workers"]] == [2, 2]
        assert status["last_reload"]["ok"]
        assert status["last_reload"]["generation"] == 2
        assert status["last_reload"]["by"] == "SIGHUP"
        more = next(li["address"] for li in status["listeners"] if li["name"] == "more")
        assert running.get(address=more)["listener"] == "more"
        second = ask(kept)
        assert (second["pid"], second["generation"]) == (first["pid"], 2)
        kept.close()


def test_reloads_read_the_environment_of_the_master(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_TEST_WORKERS", "1")
    monkeypatch.setenv("TIDEGATE_TEST_PATH", "/secret-of-the-test")
    config = configuration(tmp_path, workers="${TIDEGATE_TEST_WORKERS}")
    with daemon(tmp_path, config) as running:
        assert len(running.status()["workers"]) == 1
        monkeypatch.setenv("TIDEGATE_TEST_WORKERS", "2")  # ours: the master has what it was started with
        config["zone"] = "${TIDEGATE_TEST_WORKERS}"
        assert reload(running, config)["notes"] == []
        config["zone"] = "${TIDEGATE_TEST_PATH} x"
        config["limits"] = {"max_in_flight": "${TIDEGATE_TEST_GONE}"}
        result = reload(running, config)
        assert not result["ok"]
        assert "limits.max_in_flight: the environment variable TIDEGATE_TEST_GONE is not set" in str(result["problems"])
        assert "secret" not in str(result)


def test_a_reload_to_a_model_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    config = configuration(tmp_path)
    with daemon(tmp_path, config) as running:
        config["pools"]["up"] = {"protocol": "oip", "serve": {"models": str(tmp_path / "models")}}
        result = reload(running, config)
        assert not result["ok"]
        assert [line.partition(": ")[2] for line in result["problems"]] == [
            f"pools.up.serve.models: {tmp_path}/models: has no model; put one at {tmp_path}/models/NAME/1/model.onnx"
        ]
        assert running.status()["generation"] == 1


def test_a_removed_listener_refuses_and_its_running_exchange_ends_well(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    config["listeners"]["gone"] = listener("127.0.0.1:0")
    with daemon(tmp_path, config) as running:
        address = running.address("gone")
        held = running.connect(address)
        held.request("GET", "/hold/1")
        eventually(lambda: running.status()["pools"][0]["endpoints"][0]["in_flight"] == 1, "it is in flight")
        del config["listeners"]["gone"]
        assert reload(running, config)["ok"]

        def refuses() -> bool:
            try:
                running.connect(address).close()
            except ConnectionRefusedError:
                return True
            return False

        eventually(refuses, "the removed listener refuses")
        assert held.getresponse().status == 200
        held.close()


def test_a_renamed_listener_keeps_its_socket(tmp_path: Path) -> None:
    bind = f"127.0.0.1:{free_port()}"
    config = configuration(tmp_path, listeners={"old": listener(bind)})
    with daemon(tmp_path, config) as running:
        assert running.get(address=bind)["listener"] == "old"
        config["listeners"] = {"new": listener(bind)}
        assert reload(running, config)["ok"]
        assert running.get(address=bind)["listener"] == "new"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"pools": {"up": {"protocol": "http", "endpoints": ["127.0.0.1:9"], "policy": {"typo": 1}}}},
            "pools.up.policy",
        ),
        ({"listeners": {"web": listener("127.0.0.1:0"), "refused": listener("127.0.0.1:0")}}, "the plan is refused"),
        ({"listeners": {"web": listener("127.0.0.1:0"), "die": listener("127.0.0.1:0")}}, "died (exit code 3)"),
        ({"listeners": {"web": listener("127.0.0.1:0"), "hang": listener("127.0.0.1:0")}}, "no answer in time: pid"),
        ({"log": {"access": "/nonexistent/folder/access"}}, "/nonexistent/folder"),
    ],
    ids=["invalid", "refused", "crashes", "hangs", "unwritable log"],
)
def test_a_bad_reload_changes_nothing_and_says_why(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    config = configuration(tmp_path)
    with daemon(tmp_path, config) as running:
        result = reload(running, {**config, **change})
        assert not result["ok"]
        assert message in result["error"]
        status = running.status()
        assert status["generation"] == 1
        assert status["last_reload"]["ok"] is False
        assert message in status["last_reload"]["error"]
        assert message in running.log
        assert [li["name"] for li in status["listeners"]] == ["web"]
        assert running.get()["generation"] == 1
        eventually(lambda: all(w["state"] == "running" for w in running.workers()), "all workers run")
        for _ in range(20):  # whichever worker takes it
            assert running.get()["generation"] == 1
        assert reload(running, config)["ok"]


def test_a_taken_port_fails_the_reload_and_closes_what_it_opened(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    with daemon(tmp_path, config) as running:
        before = open_files(running.process.pid)
        new = free_port()
        listeners = {
            **config["listeners"],
            "new": listener(f"127.0.0.1:{new}"),
            "taken": listener(f"127.0.0.1:{running.address().rpartition(':')[2]}"),
        }
        result = reload(running, {**config, "listeners": listeners})
        assert "in use" in result["error"]
        with pytest.raises(ConnectionRefusedError):
            running.connect(f"127.0.0.1:{new}")
        # The connection that brought the result may be on its way out.
        eventually(lambda: open_files(running.process.pid) == before, "a descriptor is left open")


def test_what_needs_a_restart_is_named_and_the_rest_applies(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    with daemon(tmp_path, config) as running:
        listeners = {**config["listeners"], "more": listener("127.0.0.1:0")}
        result = reload(running, {**config, "workers": 1, "cache": {}, "listeners": listeners})
        assert result["ok"]
        assert [note.partition(":")[0] for note in result["notes"]] == ["workers", "cache"]
        assert "needs a restart: workers" in running.log
        assert len(running.workers()) == 2
        assert len(running.status()["listeners"]) == 2


def test_a_replaced_worker_gets_the_newest_plan(tmp_path: Path) -> None:
    config = configuration(tmp_path, workers=1)
    with daemon(tmp_path, config) as running:
        config["listeners"]["more"] = listener("127.0.0.1:0")
        assert reload(running, config)["ok"]
        os.kill(running.workers()[0]["pid"], signal.SIGKILL)
        eventually(lambda: running.workers()[0]["restarts"] == 1, "the restart")
        more = next(li["address"] for li in running.status()["listeners"] if li["name"] == "more")
        answer = running.get(address=more)
        assert (answer["listener"], answer["generation"]) == ("more", 2)


@pytest.mark.parametrize(("workers", "victims"), [(1, 1), (2, 1), (2, 2)])
def test_a_reload_goes_on_with_the_successors_of_workers_that_die(tmp_path: Path, workers: int, victims: int) -> None:
    config = configuration(tmp_path, workers=workers)
    with daemon(tmp_path, config) as running, ThreadPoolExecutor() as pool:
        before = [w["pid"] for w in running.workers()]
        wait = tmp_path / "wait-at-adopt"
        wait.touch()
        config["listeners"]["more"] = listener("127.0.0.1:0")
        reloading = pool.submit(reload, running, config)
        eventually(lambda: _noted(tmp_path / "adopting") >= set(before), "all of them have the plan")
        for pid in before[:victims]:
            os.kill(pid, signal.SIGKILL)
        wait.unlink()
        result = reloading.result()
        assert result["ok"], result
        assert (result["generation"], running.status()["generation"]) == (2, 2)
        assert {(w["generation"], w["state"]) for w in running.workers()} == {(2, "running")}
        assert sum(w["restarts"] for w in running.workers()) == victims
        more = next(li["address"] for li in running.status()["listeners"] if li["name"] == "more")
        assert running.get(address=more)["generation"] == 2
        assert reload(running, config)["ok"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_reload_waits_for_a_worker_that_starts(tmp_path: Path, workers: int) -> None:
    """A plan that nobody has tried must not be in force: it could be one that no worker takes."""
    config = configuration(tmp_path, workers=workers)
    with daemon(tmp_path, config) as running, ThreadPoolExecutor() as pool:
        wait = tmp_path / "wait-at-start"
        wait.touch()
        for worker in running.workers():
            os.kill(worker["pid"], signal.SIGKILL)
        eventually(lambda: all(w["state"] == "starting" for w in running.workers()), "the successors start")
        port = free_port()
        refused = {**config, "listeners": {**config["listeners"], "refused": listener(f"127.0.0.1:{port}")}}
        reloading = pool.submit(reload, running, refused)
        eventually(lambda: _listens(port), "the reload is under way")
        wait.unlink()
        result = reloading.result()
        assert not result["ok"]
        assert "the plan is refused" in result["error"]
        eventually(lambda: all(w["state"] == "running" for w in running.workers()), "they serve")
        assert running.get()["generation"] == 1
        assert "does not take the plan the others run" not in running.log


def test_a_request_is_explained_by_the_next_worker_when_one_dies(tmp_path: Path) -> None:
    with daemon(tmp_path) as running, ThreadPoolExecutor() as pool:
        wait = tmp_path / "wait-at-explain"
        wait.touch()
        explaining = pool.submit(running.client._asked, "GET", "/explain")
        (asked,) = eventually(lambda: _noted(tmp_path / "explaining"), "one is asked")
        os.kill(asked, signal.SIGKILL)
        wait.unlink()
        assert explaining.result()["worker"] == 1


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _noted(file: Path) -> set[int]:
    return {int(line) for line in file.read_text().split()} if file.exists() else set()


def test_endpoint_state_survives_a_reload_and_weights_follow(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    config["pools"]["up"]["endpoints"] = ["127.0.0.1:9", {"address": "127.0.0.1:10", "weight": 3}]
    with daemon(tmp_path, config) as running:
        held = running.connect()
        held.request("GET", "/hold/600")
        endpoints = lambda: {e["address"]: e for e in running.status()["pools"][0]["endpoints"]}  # noqa: E731
        eventually(lambda: endpoints()["127.0.0.1:9"]["in_flight"] == 1, "it is in flight")
        config["pools"]["up"]["endpoints"] = ["127.0.0.1:11", {"address": "127.0.0.1:9", "weight": 7}]
        assert reload(running, config)["ok"]
        assert endpoints().keys() == {"127.0.0.1:11", "127.0.0.1:9"}
        assert endpoints()["127.0.0.1:9"]["in_flight"] == 1
        assert endpoints()["127.0.0.1:9"]["weight"] == 7
        assert endpoints()["127.0.0.1:11"]["in_flight"] == 0
        held.close()


def test_a_hundred_reloads_under_load_fail_nothing_and_leak_nothing(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    with daemon(tmp_path, config) as running:
        stop = threading.Event()
        failures: list[Exception] = []
        answered = [0]

        def load(reconnect: bool) -> None:
            connection = running.connect()
            try:
                while not stop.is_set():
                    if reconnect:
                        connection.close()
                        connection = running.connect()
                    ask(connection)
                    answered[0] += 1
                    stop.wait(0.002)
            except Exception as error:
                failures.append(error)
            finally:
                connection.close()

        clients = [threading.Thread(target=load, args=(reconnect,)) for reconnect in (False, True)]
        for client in clients:
            client.start()
        for number in range(100):
            listeners = {"web": config["listeners"]["web"]}
            if number % 2:
                listeners["unix"] = listener(f"unix:{tmp_path}/web.sock")
            listeners[f"n{number % 3}"] = listener("127.0.0.1:0")
            endpoints = [{"address": f"127.0.0.1:{9 + n}", "weight": 1 + number % 5} for n in range(1 + number % 4)]
            changed = {**config, "listeners": listeners}
            changed["pools"] = {"up": {"protocol": "http", "endpoints": endpoints}}
            assert reload(running, changed)["ok"]
            if number == 10:
                before = _counts(running)
        assert reload(running, config)["ok"]
        stop.set()
        for client in clients:
            client.join()
        assert not failures
        assert answered[0] > 100
        pids = [running.process.pid, *(w["pid"] for w in running.workers())]
        assert all(alive(pid) for pid in pids)
        # What the last but one plan opened is closed by every worker once it has read the commit.
        eventually(lambda: all(n <= b for n, b in zip(_counts(running), before, strict=True)), "no descriptor leaked")
        assert running.status()["generation"] == 102


def _counts(running: Daemon) -> list[int]:
    """Open files of master and workers, idle client connections aside."""
    pids = [running.process.pid, *(w["pid"] for w in running.workers())]
    counts = []
    for pid in pids:
        links = []
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        counts.append(len(links))
    return counts


def test_signals_during_a_reload_are_not_lost(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    with daemon(tmp_path, config) as running:
        for number in range(20):
            config["listeners"]["web"]["max_connections"] = 100 + number
            running.write(config)
            running.signal(signal.SIGHUP)
        config["listeners"]["last"] = listener("127.0.0.1:0")
        running.write(config)
        running.signal(signal.SIGHUP)
        eventually(lambda: len(running.status()["listeners"]) == 2, "the last reload came through")


def test_a_reload_without_enough_descriptors_fails_and_the_next_one_is_heard(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    wider = {**config, "listeners": {**config["listeners"], "a": listener("127.0.0.1:0"), "b": listener("127.0.0.1:0")}}
    with daemon(tmp_path, config) as running:
        pid = running.process.pid

        def hang_up(wanted: dict[str, Any]) -> str:
            running.write(wanted)
            start = len(running.log)
            running.signal(signal.SIGHUP)
            return eventually(lambda: "reload" in running.log[start:] and running.log[start:], "an outcome")

        open_before, (soft, hard) = open_files(pid), resource.prlimit(pid, resource.RLIMIT_NOFILE)
        outcomes = []
        for more in range(8):
            used = {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")}
            free = [fd for fd in range(max(used) + more + 2) if fd not in used]
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[more], hard))
            outcomes.append(hang_up(wider))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
            assert "reloaded" in hang_up(config)
        assert all("oo many open files" in outcome or "reloaded" in outcome for outcome in outcomes), outcomes
        assert any("cannot listen on" in outcome for outcome in outcomes)
        assert any("descriptors cannot be passed on" in outcome for outcome in outcomes)
        assert "Traceback" not in running.log
        eventually(lambda: open_files(pid) <= open_before, "what the failed ones opened is closed")
        assert all(w["state"] == "running" and not w["restarts"] for w in running.workers())
