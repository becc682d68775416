"""When an answer is to be made anew before it is stale."""

from libc.stdint cimport uint32_t, uint64_t

# Whether to refresh a fresh entry now: XFetch. `fresh_ns` is the time that it is still fresh, `cost_us` what making it
# takes, `random` a number in (0, 1], drawn anew for each read.
cdef bint refresh_early(uint64_t fresh_ns, uint32_t cost_us, double random) noexcept nogil
