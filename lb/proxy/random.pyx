"""Random numbers of a worker: see random.pxd. SplitMix64 (Steele, Lea, Flood 2014), seeded by the kernel."""

import os

from libc.stdint cimport uint64_t

from lb.shared import seeds

cdef uint64_t state


def reseed() -> None:
    """Workers are forked: each needs a sequence of its own."""
    global state
    state = seeds.draw()


reseed()
os.register_at_fork(after_in_child=reseed)


cdef uint64_t spread(uint64_t key) noexcept nogil:
    key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9ULL
    key = (key ^ (key >> 27)) * 0x94D049BB133111EBULL
    return key ^ (key >> 31)


cdef uint64_t random64() noexcept nogil:
    global state
    state += 0x9E3779B97F4A7C15ULL
    return spread(state)


cdef uint64_t random_below(uint64_t n) noexcept nogil:
    return random64() % n
