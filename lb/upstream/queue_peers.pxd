"""What the queues of a pool in all workers tell each other, by the words of their series in the shared segment.

Each is written by its worker alone, and read by the others at any moment.
"""

from libc.stdint cimport uint64_t
from lb.upstream.queue cimport PoolQueue


cdef enum:
    LOOK_AHEAD = 4096                 # of those in line, who may be the first of their model


# The key of the last one in the worker's line; 0: nobody waits there.
cdef uint64_t last_of(PoolQueue queue, int worker) noexcept
# The worker whose last one is the last of all.
cdef int last_of_all(PoolQueue queue) noexcept
# What those in another worker who come before `key` keep from those behind; see BARS_ALL.
cdef uint64_t bars_of(PoolQueue queue, int worker, uint64_t key) noexcept
# The same of those in all other workers, in addition to `avoided`; they are told to look, but of those who take any
# endpoint only the first.
cdef uint64_t bars_before(PoolQueue queue, uint64_t key, uint64_t avoided) noexcept
# Where those stand for whom others may have to wait: the first of each model, up to one who takes any. And how many
# come before whom, roughly.
cdef void publish_line(PoolQueue queue) noexcept
