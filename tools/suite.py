"""Runs pytest with the arguments given, and asks what failed beside other tests once more, alone.

Tests start real daemons, peers and clients, several at a time on few cores, and one that lost its core for seconds
looks as a defect does. A defect fails alone, too. More than `MOST` failures are never a core's, and no second run is
made. Both runs are printed whole, and what passed the second time only is named at the end.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

MOST = 3
TESTS_FAILED = 1  # pytest's exit status; others are of errors of its own


def run(cache: Path, *arguments: str) -> int:
    command = [sys.executable, "-m", "pytest", "-q", "-o", f"cache_dir={cache}", *arguments]
    return subprocess.run(command, check=False).returncode


def failed(cache: Path) -> list[str]:
    """Tests, and files that could not be imported."""
    found = cache / "v" / "cache" / "lastfailed"
    return list(json.loads(found.read_text())) if found.exists() else []


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        status = run(cache, *arguments)
        tests = failed(cache)
        if status != TESTS_FAILED or not 0 < len(tests) <= MOST:
            return status
        print(f"\nAgain, alone: {', '.join(tests)}", flush=True)
        status = run(cache, "-n", "0", *tests)
    if not status:
        print("\nFailed beside other tests, passed alone:", *tests, sep="\n  ", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
