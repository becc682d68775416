"""Processes, their accounts, and one real run."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from waiting import eventually as wait_for

from bench import machine
from bench import results as store
from bench.accounting import CpuReading, cpu_between, memory, read_cpu
from bench.bed import Timing, lay
from bench.emulated import Emulated
from bench.emulator.client import ControlClient
from bench.emulator.spec import Service
from bench.errors import BenchError
from bench.load.request import Request
from bench.open_loop import Open, report_of
from bench.peers import PROXIES, Setup, Task
from bench.processes import Processes, require

BURN = """
import os, threading, time, sys
def burn():
    end = time.thread_time() + 0.2
    while time.thread_time() < end: pass
if os.fork() == 0:
    burn()
    while True: time.sleep(10)
threading.Thread(target=burn).start()
burn()
open(sys.argv[1], "w").close()
while True: time.sleep(10)
"""
PATH = os.environ["PATH"] + ":/usr/sbin"
needs_tools = pytest.mark.skipif(
    any(shutil.which(name, path=PATH) is None for name in ("wrk", "nginx", "haproxy", "taskset")),
    reason="wrk, nginx, haproxy and taskset are needed",
)
needs_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two CPUs are needed")


def test_cpu_time_of_children_and_threads_is_counted(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        process = processes.start("burn", [sys.executable, "-c", BURN, str(tmp_path / "done")])
        wait_for((tmp_path / "done").exists)
        pids = wait_for(lambda: found if len(found := process.pids()) == 2 else None)
        wait_for(lambda: cpu_between(CpuReading({}), read_cpu(pids)) >= 400_000_000)
        assert memory(pids).rss >= memory(pids).pss > 0


THREAD = """
import threading, time
def burn():
    end = time.thread_time() + 0.3
    while time.thread_time() < end: pass
threading.Thread(target=burn).start()
input()
"""


def test_what_a_thread_used_that_ended_is_in_the_sum_of_its_process() -> None:
    with subprocess.Popen([sys.executable, "-c", THREAD], stdin=subprocess.PIPE) as process:
        before = wait_for(lambda: found if len((found := read_cpu([process.pid])).tasks) == 2 else None)
        after = wait_for(lambda: found if len((found := read_cpu([process.pid])).tasks) == 1 else None)
        process.communicate(b"\n")
    assert 0.2e9 < cpu_between(before, after) < 1e9


def test_a_lost_process_makes_the_reading_useless() -> None:
    before = CpuReading({(1, 1): 5, (1, 2): 7})
    assert cpu_between(before, CpuReading({(1, 1): 6, (1, 2): 9, (1, 3): 4})) == 7
    with pytest.raises(BenchError, match="threads of process 1 ended"):
        cpu_between(before, CpuReading({(1, 1): 6}))


def test_stopping_ends_a_deaf_process_and_its_children(tmp_path: Path) -> None:
    code = (
        "import os, signal, time, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.fork();"
        "open(sys.argv[1] + str(os.getpid()), 'w').close()\nwhile True: time.sleep(10)"
    )
    with Processes(tmp_path) as processes:
        process = processes.start("deaf", [sys.executable, "-c", code, f"{tmp_path}/up-"])
        wait_for(lambda: len(list(tmp_path.glob("up-*"))) == 2)
        pids = process.pids()
        process.stop(grace=0.1)
    # The child is no child of ours: who reaps it takes a moment, and a zombie runs no more.
    gone = lambda pid: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # noqa: E731
    wait_for(lambda: all(gone(pid) for pid in pids))


def test_a_program_that_ends_early_is_quoted(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        process = processes.start("brief", [sys.executable, "-c", "import sys; sys.exit('no such thing')"])
        with pytest.raises(BenchError, match="brief ended with code 1: no such thing"):
            process.wait_listening(machine.free_ports(1)[0])


def test_what_is_missing_is_named() -> None:
    with pytest.raises(BenchError, match="apt-get install some-package"):
        require("no-such-program-anywhere", "some-package")


def test_cores_and_limits() -> None:
    cores = machine.split_cores([3, 1, 2])
    assert (cores.proxy, cores.load, cores.load_threads) == (1, (2, 3), 1)
    with pytest.raises(BenchError, match="two CPUs"):
        machine.split_cores([0])
    assert machine.connection_limit(20_000) * 5 // 2 + 200 <= 20_000
    assert machine.connection_limit(1_000_000) == 8000
    assert len(set(machine.free_ports(5))) == 5


def environment(tmp_path: Path) -> dict[str, str]:
    """Results in tmp_path/results, files of the run in tmp_path/work."""
    (tmp_path / "work").mkdir()
    (tmp_path / "results").mkdir()
    own = {"TIDEGATE_BENCH_RESULTS": str(tmp_path / "results"), "TMPDIR": str(tmp_path / "work")}
    return {**os.environ, **own}


def bench(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bench", *arguments]


@needs_tools
@needs_cores
def test_a_short_run_of_one_scenario(tmp_path: Path) -> None:
    own = environment(tmp_path)
    command = bench("run", "proxy-http1", "--runs", "1", "--duration", "1", "--peers", "haproxy")
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=own, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "results").glob("*.json")
    found = json.loads(path.read_text())
    subjects = found["outcomes"][0]["subjects"]
    assert set(subjects) == {"tidegate", "haproxy"}
    for subject in subjects.values():
        (sample,) = subject["samples"]
        assert sample["raw"]["wrk"]["requests"] > 0
        assert sample["raw"]["wrk"]["status"] == 0
        assert sample["raw"]["open_loop"]["failed"] == {}
        assert {point["rate"] for point in sample["raw"]["sweep"]} == {500, 1000, 4000, 8000}
        assert 0 < sample["values"]["p50_us"] <= sample["values"]["p99_us"]
        assert sample["values"]["cpu_us"] > 0
        assert subject["config"]
    assert {"tidegate", "haproxy", "wrk"} <= found["versions"].keys()
    assert not list((tmp_path / "work").iterdir())
    report = subprocess.run(
        bench("report", "--markdown"), capture_output=True, text=True, timeout=60, env=own, check=True
    )
    assert "| haproxy |" in report.stdout


@needs_tools
@needs_cores
def test_a_proxy_is_reloaded_under_load_and_one_that_cannot_is_told(tmp_path: Path) -> None:
    own = environment(tmp_path)
    command = bench("run", "reload-under-load", "udp", "--runs", "1", "--peers", "haproxy")
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=own, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "results").glob("*.json")
    reload, udp = json.loads(path.read_text())["outcomes"]
    for subject in reload["subjects"].values():
        (sample,) = subject["samples"]
        assert len(sample["raw"]["reload_s"]) == 5
        assert sample["raw"]["open_loop"]["sent"] == pytest.approx(3000, abs=5)
    assert reload["subjects"]["tidegate"]["samples"][0]["values"]["failed"] == 0
    assert udp["subjects"]["haproxy"]["cannot"]
    assert udp["subjects"]["tidegate"]["samples"]


@needs_tools
@needs_cores
def test_two_proxies_share_a_load_and_a_server_joins_meanwhile() -> None:
    """Each of the two has half of the requests, and the server that joins has some after the reload of both."""
    servers = Emulated((Service(),) * 3)
    task = Task("http", untuned=True, deadline=10, endpoints=2, proxies=2)
    pace = Open(Request(), 200, timeout=30)
    with lay(PROXIES["tidegate"], task, servers, machine.split_cores(), Timing(), 1000, 1) as bed:
        control = ControlClient(bed.control_ports[0])

        def received() -> list[int]:
            return [server["received"] for server in control.stats()["servers"]]

        def sent_by(setup: Setup) -> float:
            with urllib.request.urlopen(f"http://127.0.0.1:{setup.admin_port}/metrics", timeout=20) as answer:
                text = answer.read().decode()
            counts = re.findall(r"^tidegate_endpoint_requests_total\{.*\} (\S+)$", text, re.MULTILINE)
            return sum(map(float, counts))

        assert len(bed.proxies) == 2
        bed.ask_until(Request(), lambda answer: answer.status == 200, 30)
        counted, usage = bed.drive(pace, 1)
        assert received()[2] == 0
        both = [sent_by(setup) for setup, _ in bed.proxies]
        # The warm-up of 0.3 s as well.
        assert both == [pytest.approx(131, abs=3)] * 2
        assert (counted.operations, usage.proxy is not None) == (pytest.approx(200, abs=2), True)
        bed.serve_by(bed.server_ports)
        bed.drive(pace, 0.5)
        assert all(received())
        # `during` begins with the measured part, and not with the program.
        begun: list[int] = []
        alone = replace(bed, beside=())
        counted, _ = alone.drive(pace, 0.5, during=lambda: begun.append(time.monotonic_ns()))
        assert begun[0] >= report_of(counted).began_ns


@needs_tools
@needs_cores
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_an_interrupted_run_leaves_no_process(number: signal.Signals, tmp_path: Path) -> None:
    command = bench("run", "proxy-http1", "--runs", "1", "--duration", "60", "--peers", "")
    said = tmp_path / "stderr"
    with (
        said.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment(tmp_path)) as process,
    ):
        running = psutil.Process(process.pid)

        def under_load() -> list[psutil.Process] | None:
            # wrk in its measured run; beside it the server, its worker, the proxy and its worker.
            try:
                found = running.children(recursive=True)
                return found if len(found) >= 5 and any("60s" in child.cmdline() for child in found) else None
            except psutil.Error:  # one has just ended: the warm-up's wrk
                return None

        children = wait_for(under_load)
        process.send_signal(number)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail(f"it goes on after {number.name}: {said.read_text()}")
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert not list((tmp_path / "results").iterdir())
    if number is not signal.SIGKILL:  # then nobody is left to remove its directory
        assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "http9"), "no such scenario: http9 (there are: proxy-http1"),
        (("run", "proxy-http1", "--peers", "apache"), "no such peer: apache"),
        (("config", "haproxy", "cache-hit"), "haproxy cannot do cache-hit"),
        (("report", "/nonexistent.json"), "no result of the bench"),
    ],
)
def test_mistakes_get_one_line(arguments: tuple[str, ...], message: str) -> None:
    done = subprocess.run(bench(*arguments), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("bench: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_report_is_put_between_its_marks(tmp_path: Path) -> None:
    data = {
        "format": store.FORMAT,
        "started": "s",
        "commit": "",
        "versions": {},
        "skipped": {},
        "outcomes": [],
        "seconds": 1,
    }
    names = ("cpu", "cpus", "architecture", "system", "kernel", "proxy_core", "work_file_system")
    data["machine"] = dict.fromkeys(names, "x") | {"load_cores": []}
    data["options"] = {"runs": 1, "duration": 1, "warmup": 1}
    (tmp_path / "r.json").write_text(json.dumps(data))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nafter\n")
    write = bench("report", str(tmp_path / "r.json"), "--write", str(page))
    subprocess.run(write, check=True, timeout=60)
    text = page.read_text()
    assert text.startswith("before\n<!-- bench: begin -->\n| scenario")
    assert text.endswith("<!-- bench: end -->\nafter\n")
    assert "old" not in text
    page.write_text("no marks")
    assert subprocess.run(write, capture_output=True, timeout=60, check=False).returncode == 1
