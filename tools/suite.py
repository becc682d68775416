"""Runs pytest with the arguments given, and asks what failed beside other tests once more, alone.

Tests start real daemons, peers and clients, several at a time on few cores, and one that lost its core for seconds
looks as a defect does. A defect fails alone, too. More than `MOST` failures are never a core's, and no second run is
made. Both runs are printed whole, and what passed the second time only is named at the end.

A worker of pytest-xdist that ends is not replaced, as pytest-xdist 3.8 then waits for ever. Tests that nobody has run
for that have a run of their own, as the first one was.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

MOST = 6
TESTS_FAILED = 1  # pytest's exit status; others are of errors of its own
PLUGINS = Path(__file__).parent / "pytest_plugins"  # a folder of its own: nothing else there can be imported


def run(cache: Path, left_out: Path, *arguments: str) -> int:
    options = ["-o", f"cache_dir={cache}", "-p", "left_out", "--max-worker-restart", "0"]
    path = os.pathsep.join([str(PLUGINS), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {**os.environ, "PYTHONPATH": path, "TIDEGATE_TESTS_LEFT_OUT": str(left_out)}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, *arguments], env=environment, check=False
    ).returncode


def options_of(arguments: list[str]) -> list[str]:
    """Without the files and folders. An option that has one as its value is given with `=`."""
    return [each for each in arguments if each.startswith("-") or not Path(each.partition("::")[0]).exists()]


def listed(path: Path) -> list[str]:
    return list(json.loads(path.read_text())) if path.exists() else []


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        cache, left_out = Path(folder) / "cache", Path(folder) / "left_out"
        status = run(cache, left_out, *arguments)
        failed = listed(cache / "v" / "cache" / "lastfailed")  # tests, and files that could not be imported
        more = [test for test in listed(left_out) if test not in failed]
        if status == TESTS_FAILED and more:
            print(f"\nNot run before: {len(more)}", flush=True)
            if run(cache, left_out, *options_of(arguments), *more) not in (0, TESTS_FAILED):
                return status
            failed += [test for test in listed(cache / "v" / "cache" / "lastfailed") if test not in failed]
            failed += [test for test in listed(left_out) if test not in failed]
        if status != TESTS_FAILED or not 0 < len(failed) <= MOST:
            return status
        print(f"\nAgain, alone: {', '.join(failed)}", flush=True)
        status = run(cache, left_out, "-n", "0", *failed)
    if not status:
        print("\nFailed beside other tests, passed alone:", *failed, sep="\n  ", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
