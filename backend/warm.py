"""Everything that a model server loads before its models, for a process that makes servers of copies of itself
(lb.control.servers.watcher): a copy is there in milliseconds, where a fresh interpreter loads for half a second.

A copy is sound only while the process has one thread. Nothing here starts one: ONNX Runtime makes its threads with
sessions, which are made in the copy. `OPENBLAS_NUM_THREADS=1` in the environment keeps NumPy's library from starting
its own; no model runs on NumPy. Whoever forks counts the threads all the same.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from importlib import import_module

import setproctitle

from backend import __main__ as command
from backend.ort.errors import LibraryError
from backend.ort.library import load

for _name in ("uvloop", "backend.server", "lb.net.heap"):
    import_module(_name)
with contextlib.suppress(LibraryError):  # the copy says so
    load()


def run(arguments: list[str]) -> int:
    """The model server in this process, as `python -m backend` with these arguments; its exit status."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as the library found it
    sys.argv = ["backend", *arguments]
    setproctitle.setproctitle(" ".join([sys.executable, "-m", "backend", *arguments]))
    status = command.main()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    return status
