"""The wire format with the oldest protobuf that is allowed, with tritonclient's, and with the one that is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RELEASES = ROOT / "build" / "protobuf"  # `make dev` installs them


def run(implementation: str, release: str | None, *arguments: str) -> str:
    """What wire_child.py prints with this release before all other packages: the release that it has run with."""
    folders = [str(RELEASES / release)] if release else []
    environment = {
        **os.environ,
        "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation,
        "PYTHONPATH": os.pathsep.join([*folders, str(ROOT)]),
    }
    child = Path(__file__).with_name("wire_child.py")
    done = subprocess.run(
        [sys.executable, str(child), *arguments], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("implementation", ["upb", "python"])
@pytest.mark.slow
class TestReleases:
    def test_the_oldest(self, implementation: str) -> None:
        assert run(implementation, "oldest") == "5.26.1"

    def test_tritonclient_in_the_same_process(self, implementation: str) -> None:
        """It needs a protobuf before 7, and registers files of the same names."""
        assert run(implementation, "tritonclient", "triton").startswith("6.")

    def test_the_installed_one(self, implementation: str) -> None:
        assert run(implementation, None)
