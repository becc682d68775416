"""The daemon's own log."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys

from lb.control import logs

ENDLESS = """
import logging
from lb.control.logs import setup_logging
setup_logging("master")
for i in range(10_000):
    logging.getLogger("tidegate.master").info("line %d", i)
"""


def test_a_log_that_nobody_reads_holds_nobody_up() -> None:
    with subprocess.Popen([sys.executable, "-c", ENDLESS], stderr=subprocess.PIPE) as process:
        try:
            assert process.wait(60) == 0
        finally:
            process.kill()
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
    assert 0 < len(lines) < 10_000
    assert all(b"master: tidegate.master: line " in line for line in lines)


def test_lines_that_were_lost_are_counted_and_said() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with open(reading, "rb", buffering=0) as reader, open(writing, "w", buffering=1) as stream:
        handler = logs._Handler(stream)
        sent, said = 0, b""
        while not handler._lost:
            handler.emit(logging.LogRecord("tidegate", logging.INFO, "", 0, f"line {sent}", None, None))
            sent += 1
        for _ in range(3):
            handler.emit(logging.LogRecord("tidegate", logging.INFO, "", 0, "lost", None, None))
        while part := reader.read(65536):
            said += part
        handler.emit(logging.LogRecord("tidegate", logging.INFO, "", 0, "the last", None, None))
        while part := reader.read(65536):
            said += part
    lines = said.decode().splitlines()
    assert lines == [
        *(f"line {i}" for i in range(sent - 1)), "nobody read this log: 4 lines were lost", "the last",
    ]  # fmt: skip


def test_what_is_no_file_is_written_as_ever() -> None:
    stream = io.StringIO()
    logs._Handler(stream).emit(logging.LogRecord("tidegate", logging.INFO, "", 0, "line", None, None))
    assert stream.getvalue() == "line\n"
