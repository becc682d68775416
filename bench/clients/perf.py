"""perf_analyzer's ways of asking, each a run that has to end well and to count what it asked."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

WINDOWS = ("-p", "300", "-r", "10", "-s", "999")  # ms of a window, windows, percent that two may differ
SEQUENCES = ("--sequence-length", "5", "--num-of-sequences", "4")
LIMIT = 60.0  # seconds for a run
_RUNS: dict[str, tuple[str, ...]] = {
    "http": ("-i", "http"),
    "grpc": ("-i", "grpc"),
    "grpc, concurrency range": ("-i", "grpc", "--concurrency-range", "1:5:2"),
    "http, concurrency range": ("-i", "http", "--concurrency-range", "1:5:2"),
    "grpc, batches": ("-i", "grpc", "-b", "4"),
    "grpc, streaming": ("-i", "grpc", "--streaming", "--concurrency-range", "4"),
    "http, system shared memory": ("-i", "http", "--shared-memory", "system"),
    "grpc, system shared memory": ("-i", "grpc", "--shared-memory", "system"),
    "http, JSON inputs": ("-i", "http", "--input-tensor-format", "json"),
    "http, JSON outputs": ("-i", "http", "--output-tensor-format", "json"),
    "http, JSON both ways": ("-i", "http", "--input-tensor-format", "json", "--output-tensor-format", "json"),
    "http, request rates": ("-i", "http", "--request-rate-range", "50:150:50"),
    "grpc, request rates": ("-i", "grpc", "--request-rate-range", "50:150:50"),
    "grpc, Poisson request rate": ("-i", "grpc", "--request-rate-range", "100", "--request-distribution", "poisson"),
    "grpc, gzip": ("-i", "grpc", "--grpc-compression-algorithm", "gzip"),
    "grpc, sequences": ("-m", "sum", "-i", "grpc", *SEQUENCES, "--request-rate-range", "100"),
    "http, sequences": ("-m", "sum", "-i", "http", *SEQUENCES, "--request-rate-range", "100"),
    "grpc, sequences, streaming": ("-m", "sum", "-i", "grpc", "--streaming", *SEQUENCES[:2]),
}  # fmt: skip
TITLES = tuple(_RUNS)
_THROUGHPUT = re.compile(r"^\s*Throughput: ([\d.]+) infer/sec", re.MULTILINE)
_COUNTED = re.compile(r"^\s*Inference count: (-?\d+)", re.MULTILINE)
_WRONG = re.compile(r"^.*(?:error|failed|cannot|unable|\[ERROR\]).*$", re.MULTILINE | re.IGNORECASE)
_MOST = 10_000_000  # inferences that a run of some seconds cannot have


def run(program: Path, http: int, grpc: int, titles: Sequence[str] = TITLES) -> dict[str, str]:
    """By title, "" or the reason. `http` and `grpc` are the ports to ask."""
    ports = {"http": http, "grpc": grpc}
    return {title: _run(program, f"127.0.0.1:{ports[title[:4]]}", _RUNS[title]) for title in titles}


def _run(program: Path, address: str, options: tuple[str, ...]) -> str:
    model = () if "-m" in options else ("-m", "affine")
    words = [str(program), *model, "-u", address, *WINDOWS, *options]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        text, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the program in the package is a script that starts another
        process.communicate()
        return f"no end in {LIMIT:g} s"
    return verdict(process.returncode, text)


def verdict(code: int, text: str) -> str:
    """What is wrong with a run by its exit code and its words; "" where nothing is."""
    rates = [float(found) for found in _THROUGHPUT.findall(text)]
    counts = [int(found) for found in _COUNTED.findall(text)]
    if code or not rates or not all(rates):
        wrong = _WRONG.findall(text)
        reason = wrong[-1].strip() if wrong else " ".join(text.split())[-200:]
        return f"exit {code}: {reason}"[:400]
    if any(not 0 < count < _MOST for count in counts):
        return f"it counts {counts} inferences"
    return ""
