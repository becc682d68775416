"""Running the generator as a process of its own, or several side by side: its command line, and what it prints."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.errors import BenchError
from bench.load.report import Report
from bench.processes import dying_with_us

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


def side_by_side(specs: Sequence[Path]) -> Report:
    """Runs each spec in a process of its own, all at once, and merges their reports.

    Raises BenchError if one of them fails; the others are ended then.
    """
    pipe = subprocess.PIPE
    running = [subprocess.Popen(dying_with_us(command(each)), stdout=pipe, stderr=pipe, text=True) for each in specs]
    reports = []
    try:
        for process in running:
            output, complaints = process.communicate()
            if process.returncode:
                raise BenchError((complaints or output).strip()[-300:])
            reports.append(parse(output))
    finally:
        for process in running:
            process.kill()
            process.wait()
    return functools.reduce(Report.merge, reports)
