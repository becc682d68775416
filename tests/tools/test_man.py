"""tools/man.py: the manual pages, read by both of Debian's programs for them without a warning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lb.cli.app import command_parser
from lb.config.schema.file import Config

ROOT = Path(__file__).parents[2]
PAGES = ("tidegate.8", "tidegate.yaml.5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("man")
    subprocess.run(
        [sys.executable, ROOT / "tools" / "man.py", place],
        check=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    return place


def shown(page: Path) -> str:
    done = subprocess.run(["mandoc", "-T", "utf8", "-O", "width=500", page], capture_output=True, check=True)
    return subprocess.run(["col", "-bx"], input=done.stdout, capture_output=True, check=True).stdout.decode()


@pytest.mark.parametrize("name", PAGES)
def test_no_warning(name: str, folder: Path) -> None:
    lint = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", folder / name], capture_output=True, text=True)
    assert (lint.returncode, lint.stdout) == (0, "")
    groff = subprocess.run(
        ["groff", "-man", "-K", "utf8", "-Tutf8", "-ww", "-z", folder / name], capture_output=True, text=True
    )
    assert (groff.returncode, groff.stderr) == (0, "")


def test_every_command_is_described(folder: Path) -> None:
    text = shown(folder / "tidegate.8")
    (commands,) = (action for action in command_parser()._actions if action.choices and action.nargs == "A...")
    assert all(f"tidegate {name}\n" in text for name in commands.choices or ())
    assert "tidegate - load balancer for AI inference" in text
    assert "EXIT STATUS" in text


def test_every_key_of_the_file_is_described(folder: Path) -> None:
    text = shown(folder / "tidegate.yaml.5")
    lines = {line.strip() for line in text.splitlines()}
    assert set(Config.model_fields) <= lines
    assert "|" not in "".join(line for line in text.splitlines() if line.lstrip().startswith("|"))
    assert "](" not in text
