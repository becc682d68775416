"""Signals by which operators talk to the master, and that end no process of the daemon: not the master while it starts,
nor a child; `systemctl kill`, or a signal to the process group, reaches all of them.

They are blocked until a process has said what becomes of them, and what comes meanwhile waits. A child begins with them
blocked.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

HELD = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# They end a process that has not said otherwise. Only a master that becomes another program holds them: what comes
# before that one hears of signals is to stop it with all that it has taken over.
ENDING = (signal.SIGTERM, signal.SIGINT)
# It waits for a program that serves: one that goes back leaves the signal to the program before.
UPGRADE = signal.SIGUSR2


def hold() -> None:
    """Until `release`, in this thread and what it starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)


def hold_all() -> set[int]:
    """Both kinds, for a process that becomes another program: `restore` gets what this returns where it does not."""
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, (*HELD, *ENDING)))


def restore(before: set[int]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def release() -> None:
    """From here on, and for what waited, what was said of them holds."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*HELD, *ENDING))


def release_but_upgrade() -> None:
    """The same, but the one that asks for an upgrade still waits."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*HELD, *ENDING} - {UPGRADE})


@contextlib.contextmanager
def held() -> Iterator[None]:
    """What is started inside begins with them blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore() -> None:
    """In a child that has nothing to do with them."""
    for number in HELD:
        signal.signal(number, signal.SIG_IGN)
    release()
