"""Help at 80 columns: nothing is cut off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = [
    *"run check reload status transitions drain maintenance enable weight".split(),  # noqa: SIM905
    *"explain models scaling jobs cache schema completion init doctor bench version".split(),  # noqa: SIM905
]
OTHERS = [
    ["-m", "backend", "--help"],
    ["-m", "lb.cli.demo", "--help"],
    ["-m", "lb.cli", "bench", "run", "--help"],
    ["-m", "lb.cli", "models", "list", "--help"],
    ["-m", "lb.cli", "models", "cache", "--help"],
    ["-m", "lb.cli", "scaling", "explain", "--help"],
    ["-m", "lb.cli", "cache", "verify-rows", "--help"],
    ["-m", "lb.cli", "scaling", "record", "--help"],
    *(["-m", "lb.cli", "jobs", name, "--help"] for name in ("list", "retry", "cancel")),
    *(["-m", "lb.cli", "cache", name, "--help"] for name in ("stats", "top", "purge", "warm")),
]


def shown(*arguments: str, columns: int = 80) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(columns)}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=60, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def cut(text: str) -> list[str]:
    """Lines that end in the middle of a sentence. `ARGS...` of a usage line stands for several."""
    return [line for line in text.splitlines() if line.rstrip().endswith(("…", "...")) and "usage:" not in line.lower()]


def test_the_commands_are_described_by_whole_sentences() -> None:
    text = shown("-m", "lb.cli", "--help")
    assert cut(text) == []
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    assert "exit with 1 and every problem, one a line, if it has any." in flat
    assert all(f" {name} " in flat for name in COMMANDS)


@pytest.mark.parametrize("arguments", [*(["-m", "lb.cli", name, "--help"] for name in COMMANDS), *OTHERS], ids=" ".join)
def test_no_help_is_cut(arguments: list[str]) -> None:
    assert cut(shown(*arguments)) == []
