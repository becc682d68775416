"""Python environments for other makers' packages, each on its own: they want other versions of the same packages."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError

_LAST = 300  # characters of pip's complaint that are shown


@dataclass(frozen=True)
class Environment:
    """`packages` as pip takes them. `shown` names those whose versions are told."""

    name: str
    packages: tuple[str, ...]
    shown: tuple[str, ...]


def folder_of(environments: Path, wanted: Environment) -> Path:
    return environments / wanted.name


def python_of(environments: Path, wanted: Environment) -> Path:
    return folder_of(environments, wanted) / "bin" / "python"


def make(environments: Path, wanted: Environment) -> None:
    """Makes the environment, or adds what it lacks. Raises BenchError with pip's reason."""
    folder = folder_of(environments, wanted)
    python = python_of(environments, wanted)
    if not python.exists():
        _run([sys.executable, "-m", "venv", str(folder)], f"no environment in {folder}")
    words = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *wanted.packages]
    _run(words, f"{wanted.name} cannot be installed")


def _run(words: list[str], what: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{what}: {(done.stderr or done.stdout).strip()[-_LAST:]}")


def missing(environments: Path, wanted: Environment) -> str:
    """The first package that is not there; empty where all are."""
    found = versions(environments, wanted)
    return next((name for name in wanted.shown if name not in found), "")


def versions(environments: Path, wanted: Environment) -> dict[str, str]:
    """Of the packages of `shown` that are installed. Empty without an environment."""
    python = python_of(environments, wanted)
    if not python.exists():
        return {}
    script = (
        "import sys; from importlib import metadata\n"
        "have = {each.metadata['Name'].lower().replace('_', '-'): each.version for each in metadata.distributions()}\n"
        "print(*(f'{name} {have[name]}' for name in sys.argv[1:] if name in have), sep='\\n')"
    )
    done = subprocess.run([str(python), "-c", script, *wanted.shown], capture_output=True, text=True, check=False)
    rows = [line.split() for line in done.stdout.splitlines()]
    return {row[0]: row[1] for row in rows if len(row) == 2}


def site_packages(environments: Path, wanted: Environment) -> Path:
    """Raises BenchError without an environment."""
    found = sorted(folder_of(environments, wanted).glob("lib/python3.*/site-packages"))
    if not found:
        raise BenchError(f"there is no environment {wanted.name} in {environments}")
    return found[0]
