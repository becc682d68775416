"""What `tidegate run` begins before it loads the master: the loading takes a second, and another CPU may be idle."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lb.cli.descriptors import open_standard_descriptors, raise_descriptor_limit
from lb.control.workers.launch import COMMAND, Launched, worker_environment


@contextlib.contextmanager
def fork_server() -> Iterator[Launched | None]:
    """The workers' fork server, which loads the data path meanwhile. None where it cannot be started: the master tries
    again, and says why."""
    open_standard_descriptors()
    raise_descriptor_limit()  # before there is a child that has it
    try:
        launched = Launched(COMMAND, worker_environment())
    except OSError:
        yield None
        return
    try:
        yield launched
    finally:
        launched.close()  # a start that failed early has not taken it
