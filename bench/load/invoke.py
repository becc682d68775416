"""Running the generator as a process of its own: its command line, and reading what it prints."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.errors import BenchError
from bench.load.report import Report

MARK = "bench-result "
# Printed, alone on a line, when the warm-up has ended: the moment to read a proxy's accounts.
MEASURING = "bench-measuring"


def command(spec: Path) -> list[str]:
    """The command line that runs a file with a spec's JSON."""
    return [sys.executable, "-m", "bench.load", str(spec)]


def parse(output: str) -> Report:
    """The report in what the generator printed. Raises BenchError if there is none."""
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    if len(lines) != 1:
        raise BenchError(f"the load generator reported no result: {output.strip()[-300:] or 'it printed nothing'}")
    return Report.from_json(lines[0].removeprefix(MARK))
