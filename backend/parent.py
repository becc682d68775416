"""Stops this process when its parent dies, whatever the parent died of (Linux, prctl(2) PR_SET_PDEATHSIG)."""

from __future__ import annotations

import ctypes
import os
import signal

from backend.errors import StartError

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Asks the kernel for a SIGTERM at the death of the thread that started this process.

    A parent must therefore start it from a thread that lives as long as itself. Raises StartError when the kernel
    refuses, or when the parent was gone before the kernel could be asked.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM), 0, 0, 0):
        raise StartError(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() == 1:
        raise StartError("the parent process has died already")
