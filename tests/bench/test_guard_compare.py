"""What counts as a change, and the file of figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.guard import cli
from bench.guard.callgrind import Length
from bench.guard.compare import Verdict, allowed, compare, differences
from bench.guard.figures import STORED, Figures, Tolerance, load, merge, save
from bench.guard.paths import PATHS
from bench.guard.profile import Count
from bench.guard.toolchain import compiler_options, toolchain

BEFORE = Count(1000, 1000.0, 20.0, {"a": 600.0, "b": 300.0, "c": 99.0, "d": 1.2})
TOOLS = {"architecture": "x86_64", "compiler": "GCC 12", "libc": "glibc 2.41"}
STATED = Figures(TOOLS, Length(), {"http1": BEFORE})


def judge(after: Count, percent: float = 1.0) -> tuple[Verdict, list[tuple[str, float]]]:
    (one,) = compare(STATED, {"http1": after}, percent)
    return one.verdict, [(moved.function, round(moved.instructions, 2)) for moved in one.moved]


@pytest.mark.parametrize(
    ("instructions", "calls", "verdict"),
    [
        (1000.0, 20.0, Verdict.SAME),
        (1009.9, 20.04, Verdict.SAME),
        (1010.1, 20.0, Verdict.WORSE),
        (990.1, 19.96, Verdict.SAME),
        (989.9, 20.0, Verdict.BETTER),
        (1000.0, 20.1, Verdict.WORSE),
        (1000.0, 19.0, Verdict.BETTER),
        (900.0, 21.0, Verdict.WORSE),  # a system call more is never paid for by instructions
    ],
)
def test_verdicts(instructions: float, calls: float, verdict: Verdict) -> None:
    assert judge(replace(BEFORE, instructions=instructions, system_calls=calls))[0] is verdict


def test_where_it_changed() -> None:
    after = replace(BEFORE, instructions=1300.0, functions={"a": 500.0, "b": 300.4, "c": 99.0, "new": 400.0})
    assert judge(after) == (Verdict.WORSE, [("new", 400.0), ("a", -100.0), ("d", -1.2)])


def test_a_path_without_a_figure() -> None:
    (one,) = compare(STATED, {"udp": BEFORE}, 1.0)
    assert (one.verdict, one.stored, one.percent) == (Verdict.NEW, None, None)


def test_toolchains() -> None:
    assert differences(TOOLS, TOOLS) == []
    other = {**TOOLS, "compiler": "GCC 14", "cython": "3.3"}
    assert differences(TOOLS, other) == ["compiler: stored GCC 12, here GCC 14", "cython: stored nothing, here 3.3"]
    assert (allowed(Tolerance(1, 9), True), allowed(Tolerance(1, 9), False)) == (1, 9)
    with pytest.raises(BenchError, match="of x86_64, this is aarch64"):
        differences(TOOLS, {**TOOLS, "architecture": "aarch64"})


def test_figures_there_and_back(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    save(Figures(TOOLS, Length(3, 40), {"http1": replace(BEFORE, requests=40)}, Tolerance(2, 20)), file)
    found = load(file)
    assert (found.toolchain, found.length, found.tolerance) == (TOOLS, Length(3, 40), Tolerance(2, 20))
    assert found.paths == {"http1": replace(BEFORE, requests=40)}
    save(replace(STATED, paths={"http1": replace(BEFORE, functions={"a": 600.0, "small": 0.9})}), file)
    assert load(file).paths["http1"].functions == {"a": 600.0}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 0}', '{"format": 1, "length": 3}'])
def test_a_file_that_holds_none(text: str, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    file.write_text(text)
    with pytest.raises(BenchError, match=r"figures\.json: (no figures|has format 0)"):
        load(file)
    with pytest.raises(BenchError, match="make bench-guard-update"):
        load(tmp_path / "missing.json")


def test_figures_of_two_toolchains_are_not_mixed() -> None:
    new = {"tcp": BEFORE}
    assert list(merge(STATED, new, TOOLS, Length()).paths) == ["http1", "tcp"]
    for tools, length in (({**TOOLS, "libc": "musl"}, Length()), (TOOLS, Length(1, 1))):
        with pytest.raises(BenchError, match="store all"):
            merge(STATED, new, tools, length)


def test_every_path_has_a_stored_figure() -> None:
    stored = load(STORED)
    assert stored.paths.keys() == PATHS.keys()
    for count in stored.paths.values():
        # What is left out of the file is below one instruction each.
        assert 0.9 * count.instructions < sum(count.functions.values()) <= count.instructions + 1


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the command with `counts` in callgrind's place; its exit status and what it printed."""
    monkeypatch.setattr(cli, "toolchain", lambda: TOOLS)
    save(STATED, tmp_path / "figures.json")

    def run(*arguments: str, counts: dict[str, Count]) -> tuple[int, str]:
        monkeypatch.setattr(cli, "count", lambda paths, *_, **__: {path: counts[path] for path in paths})
        monkeypatch.setattr("sys.argv", ["guard", *arguments, "--file", str(tmp_path / "figures.json")])
        status = cli.main()
        return status, capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("instructions", "status", "said"),
    [
        (1001.0, 0, ["+0.10 %", "same"]),
        (1100.0, 1, ["+10.00 %", "worse", "where it changed", "+100.0"]),
        (800.0, 0, ["-20.00 %", "better", "where it changed", "make bench-guard-update"]),
    ],
)
def test_check(guard: Run, instructions: float, status: int, said: list[str]) -> None:
    functions = {**BEFORE.functions, "a": 600.0 + instructions - 1000.0}
    found, printed = guard(
        "check", "http1", counts={"http1": replace(BEFORE, instructions=instructions, functions=functions)}
    )
    assert found == status
    assert [text for text in said if text not in printed] == []


def test_check_of_a_path_without_a_figure_fails(guard: Run) -> None:
    status, printed = guard("check", "tcp", counts={"tcp": BEFORE})
    assert status == 1
    assert "not stored" in printed


def test_another_toolchain_is_said_and_allowed_more(guard: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "toolchain", lambda: {**TOOLS, "compiler": "GCC 14"})
    status, printed = guard("check", "http1", counts={"http1": replace(BEFORE, instructions=1090.0)})
    assert status == 0
    assert "compiler: stored GCC 12, here GCC 14" in printed
    assert "tolerance 10 %" in printed
    assert guard("check", "http1", counts={"http1": replace(BEFORE, instructions=1110.0)})[0] == 1


def test_update_replaces_what_it_counted(guard: Run, tmp_path: Path) -> None:
    assert guard("update", "tcp", counts={"tcp": BEFORE})[0] == 0
    assert guard("update", "http1", counts={"http1": replace(BEFORE, instructions=900.0)})[0] == 0
    stored = json.loads((tmp_path / "figures.json").read_text())["paths"]
    assert {path: count["instructions"] for path, count in stored.items()} == {"http1": 900.0, "tcp": 1000.0}


def test_an_unknown_path_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["guard", "run", "http9"])
    assert cli.main() == 1
    assert capsys.readouterr().err.startswith("bench.guard: no such path: http9 (there are: http1, ")


def test_the_toolchain_of_this_build() -> None:
    found = toolchain()
    assert found.keys() >= {"architecture", "compiler", "cython", "libllhttp", "libnghttp2", "libsodium", "valgrind"}
    assert all(found.values())


def test_compiler_options_without_places() -> None:
    module = b"\0GNU C11 12.4.0 -mtune=generic -g -O2 -I/usr/include -std=gnu11\0GNU AS 2.40\0"
    assert compiler_options(module) == "-mtune=generic -O2 -std=gnu11"
    assert compiler_options(b"\0clang version 19\0") == "not recorded"
