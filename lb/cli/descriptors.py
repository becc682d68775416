"""The descriptors that a daemon begins with, which are whatever its caller left it."""

from __future__ import annotations

import contextlib
import os
import resource
import sys


def open_standard_descriptors() -> None:
    """Opens the null device for each of descriptors 0 to 2 that is closed. Else a socket would get its number, and have
    what is written to standard error; libuv, too, gives up when it finds one of its own there. To be called before
    anything else is opened."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: those below are open
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def raise_descriptor_limit() -> None:
    """Lifts the soft limit of open files to the hard one, for us and for the processes that we start, as HAProxy and
    programs in Go do: the usual 1024 is for those that call select(2), and a worker takes no connection beyond it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError):  # a sandbox may forbid it, and the daemon works with fewer
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
