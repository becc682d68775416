"""This process as the child of a daemon: it dies with its parent, whatever that died of (Linux, prctl(2)
PR_SET_PDEATHSIG), and does not take for its own what operators say to the daemon."""

from __future__ import annotations

import ctypes
import os
import signal

from backend.errors import StartError

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int = 0) -> None:
    """Asks the kernel for a SIGTERM at the death of the thread that started this process, of the process `parent`.

    A parent must therefore start it from a thread that lives as long as itself. Without its number (0) it is whoever is
    the parent now. Raises StartError when the kernel refuses, or when the parent was gone before the kernel could be
    asked.
    """
    parent = parent or os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM), 0, 0, 0):
        raise StartError(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    # Who has no parent any more gets another: process 1, which in a container may well be the parent itself, or a
    # subreaper.
    if os.getppid() != parent:
        raise StartError("the parent process has died already")


def ignore_signals_of_the_parent() -> None:
    """A daemon reloads and opens its logs anew at them; `systemctl kill`, or a signal to a group, reaches all of its
    processes. The parent starts us with them blocked, so that none comes too early."""
    numbers = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
