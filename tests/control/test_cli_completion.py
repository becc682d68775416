"""`tidegate completion` in the shells themselves: what stands on the line after a tabulator."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from terminal import Terminal

from lb.cli.app import command_parser, main
from lb.cli.completion import SHELLS, script

# (typed, what stands there after the tabulator)
LINES = [
    ("tidegate chec", "tidegate check "),
    ("tidegate cache verif", "tidegate cache verify-rows "),
    ("tidegate scaling rec", "tidegate scaling record "),
    ("tidegate drain pool endpoint --tok", "tidegate drain pool endpoint --token-file "),
    ("tidegate check --config prod", "tidegate check --config production.yaml "),
    ("tidegate completion zs", "tidegate completion zsh "),
    ("tidegate jobs list --state cancel", "tidegate jobs list --state cancelled "),
]
START = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source {script}; PS1='ready'$'\\x3e'"),
    "zsh": (["zsh", "-f", "-i"], "fpath=({folder} $fpath); autoload -U compinit; compinit -u -D; PS1='ready'$'\\x3e'"),
}
SCRIPTS = {"bash": "tidegate.bash", "zsh": "_tidegate", "fish": "tidegate.fish"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "production.yaml").touch()
    for shell, name in SCRIPTS.items():
        (tmp_path / name).write_text(script(command_parser(), shell))
    return tmp_path


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_line_is_completed(shell: str, folder: Path) -> None:
    command, setup = START[shell]
    terminal = Terminal(command, folder)
    try:
        terminal.type(setup.format(script=folder / SCRIPTS[shell], folder=folder) + "\n")
        terminal.shows("ready>")
        for typed, expected in LINES:
            terminal.type(typed + "\t")
            terminal.shows(expected.rstrip())
            terminal.type("\x15\n")  # the line is not run
            terminal.shows("ready>")
    finally:
        terminal.type("\x15exit\n")
        terminal.close()


@pytest.mark.parametrize(("typed", "expected"), LINES)
def test_a_line_is_completed_by_fish(typed: str, expected: str, folder: Path) -> None:
    code = f"source {folder / SCRIPTS['fish']}; complete -C {typed!r}"
    done = subprocess.run(
        ["fish", "--no-config", "-c", code], cwd=folder, capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    offered = [line.partition("\t")[0] for line in done.stdout.splitlines()]
    assert offered == [expected.split()[-1]]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_command_prints_a_script_that_the_shell_reads(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    path = tmp_path / "script"
    path.write_text(capsys.readouterr().out)
    program = shutil.which(shell)
    assert program is not None
    subprocess.run([program, "-n", path], check=True)


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "ksh"]) == 2
    assert "'ksh'" in capsys.readouterr().err
