"""Stops this process when its parent dies, whatever the parent died of (Linux, prctl(2) PR_SET_PDEATHSIG)."""

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
