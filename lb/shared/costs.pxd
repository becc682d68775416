"""What models take, in the shared segment: averages that all workers feed, and that outlive workers and reloads."""

cimport cython
from libc.stdint cimport uint64_t

from lb.shared.segment cimport Segment, tg_cost, tg_cost_head, tg_cost_set


@cython.final
cdef class Costs:
    """The costs of a segment as one process sees them. Keeps the segment, and so its mapping, alive."""
    cdef readonly Segment segment
    cdef tg_cost_head *head
    cdef tg_cost_set *sets
    cdef uint64_t mask

    # The key of what `name` names, never 0 or 1; secret.
    cdef uint64_t key_of(self, const char *name, size_t n) noexcept nogil
    # The record of `key`, NULL where there is none.
    cdef tg_cost *find(self, uint64_t key, uint64_t now) noexcept nogil
    # The same; where there is none it is made, in place of the one that was not used for longest. NULL: another process
    # was faster, or the name is too long.
    cdef tg_cost *take(self, uint64_t key, const char *name, size_t n, uint64_t now) noexcept nogil
    # A request of `units` kept an endpoint busy for `busy` ns; `weight` (0 to 1) says how certain that is.
    cdef void learn(self, tg_cost *record, double busy, double units, double weight) noexcept nogil
    # An endpoint's time for a unit in ns; 0: nothing is known.
    cdef double unit_time(self, const tg_cost *record) noexcept nogil
