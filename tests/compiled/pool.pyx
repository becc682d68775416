"""A pool of a worker, called from Python as the exchanges of the data path call it."""

from libc.stdint cimport uint64_t
from lb.endpoints.choice cimport Choice
from lb.failure cimport VERDICT_BUSY, VERDICT_FAULT, VERDICT_GATEWAY, VERDICT_GOOD
from lb.upstream.pool cimport Pool

VERDICTS = {"good": VERDICT_GOOD, "fault": VERDICT_FAULT, "gateway": VERDICT_GATEWAY, "busy": VERDICT_BUSY}


def acquire(Pool pool not None, uint64_t now, uint64_t key=0, int exclude=-1):
    """An attempt begins at `now` (monotonic ns): (its endpoint, or a negative number where there is none, what was
    charged, requests in flight there, itself included)."""
    cdef Choice choice = pool.new_choice(now, key)
    cdef int index
    choice.exclude = exclude
    index = pool.acquire(choice)
    return index, choice.charged, pool.endpoints.running(index) if index >= 0 else 0


def release(Pool pool not None, int index, int charged, int in_flight, uint64_t begun, uint64_t now, str verdict):
    """An attempt that began at `begun` is over at `now`, with one of VERDICTS. IndexError when `index` is out of
    range."""
    pool.endpoints.check(index)
    cdef int found = VERDICTS[verdict]
    pool.judge(index, found, begun, now)
    pool.release(index, now, now - begun, found == VERDICT_GOOD, in_flight, charged, 0)
