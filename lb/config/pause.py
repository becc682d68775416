"""Work that makes very many objects which all stay, without the garbage collector looking at them again and again."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_users = 0
_enabled = True  # whether the collector was on before the first of the users came


@contextmanager
def collector_paused() -> Iterator[None]:
    """No cyclic garbage is collected meanwhile, in any thread; what is counted down to nothing is freed as ever.

    A file of ten thousand routes becomes a million objects: the collector, which runs again whenever so and so many
    are new, took six times as long as making them. Only for work whose size is bounded, as that of a file is.
    """
    global _users, _enabled
    with _lock:
        if _users == 0:
            _enabled = gc.isenabled()
            gc.disable()
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0 and _enabled:
                gc.enable()
