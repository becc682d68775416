"""The table of clients and servers: how cells are judged, and every case against our own model server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from rich.console import Console
from waiting import eventually

from bench.clients import cli, perf, table
from bench.clients.rig import KINDS, Target, alone, behind_a_daemon
from bench.errors import BenchError
from bench.model_servers import cli as model_servers
from bench.model_servers.others.environments import Environment, missing, site_packages, versions
from bench.model_servers.others.servers import OTHERS

METHODS = Path(cli.__file__).with_name("methods.py")


def found(alone: str, one: str, three: str) -> table.Found:
    cells = {
        where: {"http": {"infer": reason}, "perf_analyzer": {"http": ""}}
        for where, reason in ((table.ALONE, alone), ("pool of one", one), ("pool of three", three))
    }
    return table.Found({"clients": {"tritonclient": "2.73.0"}}, {"triton": cells})


@pytest.mark.parametrize(
    ("alone", "behind", "cell"),
    [("", "", "yes"), ("no", "", "yes, added"), ("no", "nor here", "-"), ("", "nor here", "**no**")],
)
def test_cells_are_judged_by_what_the_server_can_do_alone(alone: str, behind: str, cell: str) -> None:
    assert table.judge(alone, behind) == cell
    text = table.markdown(found(alone, behind, behind), {"triton": "Triton"})
    assert f"| infer | {cell} |" in text


def test_a_cell_that_is_worse_in_a_pool_has_its_reason() -> None:
    what = found("", "", "404 | <no>")
    assert [(one.arrangement, one.case) for one in table.worse(what)] == [("pool of three", "infer")]
    text = table.markdown(what, {"triton": "Triton"})
    assert "one: yes, three: **no**" in text
    assert "- infer (http): 404 / &lt;no>" in text


def test_what_was_found_is_kept(tmp_path: Path) -> None:
    found("no", "", "").save(tmp_path / "found.json")
    assert table.load(tmp_path / "found.json") == found("no", "", "")


def test_a_run_of_perf_analyzer_is_judged_by_its_words() -> None:
    good = "Request count: 12\n Inference count: 12\n    Throughput: 55.5 infer/sec\n"
    assert perf.verdict(0, good) == ""
    assert perf.verdict(0, good.replace("count: 12", "count: 18446744073709548426")).startswith("it counts")
    assert perf.verdict(0, good.replace("55.5", "0")) != ""
    assert perf.verdict(99, "usage\nerror: a first one\nerror: Failed to init\n") == "exit 99: error: Failed to init"
    assert perf.verdict(0, "Error: --request-count not supported\n").endswith("not supported")


def test_a_run_without_an_end_is_ended_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "perf_analyzer"
    program.write_text(f"#!/bin/sh\nsleep 1000 & echo $! > {tmp_path}/pid\nwait\n")
    program.chmod(0o755)
    monkeypatch.setattr(perf, "LIMIT", 1.0)
    assert perf.run(program, 1, 1, ["grpc"]) == {"grpc": "no end in 1 s"}
    pid = int((tmp_path / "pid").read_text())

    def ended() -> bool:
        return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE

    eventually(ended, "what it started has ended")


def test_environments_say_what_they_lack(tmp_path: Path) -> None:
    wanted = Environment("some", ("pip",), ("pip", "no-such-package"))
    assert versions(tmp_path, wanted) == {}
    assert missing(tmp_path, wanted) == "pip"
    with pytest.raises(BenchError, match="there is no environment some"):
        site_packages(tmp_path, wanted)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "some"], check=True)
    assert list(versions(tmp_path, wanted)) == ["pip"]
    assert missing(tmp_path, wanted) == "no-such-package"


def test_servers_that_are_absent_are_named(tmp_path: Path) -> None:
    console = Console(record=True, width=200)
    assert model_servers._others(tmp_path / "models", tmp_path, False, console) == []
    text = console.export_text()
    for other in OTHERS:
        assert f"{other.name} is absent: {other.environment.shown[0]} is not in {tmp_path}" in text


def ask(client: str, target: Target) -> dict[str, str]:
    address = target.grpc if client.startswith("grpc") else target.http
    words = [sys.executable, str(METHODS), client, f"127.0.0.1:{address}", f"127.0.0.1:{target.http}"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, timeout=90)
    cells: dict[str, str] = json.loads(done.stdout)
    return cells


@pytest.fixture(scope="module")
def alone_by_client(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    with alone(KINDS["tidegate"], Path(), tmp_path_factory.mktemp("alone")) as target:
        return {client: ask(client, target) for client in table.CLIENTS}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", table.POOLS.values())
def test_no_case_is_worse_behind_the_daemon(
    alone_by_client: dict[str, dict[str, str]], count: int, tmp_path: Path
) -> None:
    assert alone_by_client["http"]["infer"] == alone_by_client["grpc"]["infer"] == ""
    with behind_a_daemon(KINDS["tidegate"], Path(), tmp_path, count) as target:
        for client, cases in alone_by_client.items():
            behind = ask(client, target)
            worse = {case: reason for case, reason in behind.items() if reason and not cases[case]}
            assert worse == {}, client
