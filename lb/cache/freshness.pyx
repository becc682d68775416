"""When an answer is to be made anew before it is stale.

XFetch (Vattani, Chierichetti, Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015), beta 1: a read
refreshes when `now - cost * ln(random) >= fresh_until`. Each read decides alone. The more reads there are, and the
longer making the answer takes, the earlier one of them begins. An entry that nobody reads is not refreshed.
"""

from libc.math cimport log
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    # -ln of the smallest number that a 53-bit random fraction can be, rounded up: farther ahead nothing is decided.
    MOST_COSTS = 37


cdef bint refresh_early(uint64_t fresh_ns, uint32_t cost_us, double random) noexcept nogil:
    cdef uint64_t cost_ns = <uint64_t> cost_us * 1000
    if fresh_ns > cost_ns * MOST_COSTS:  # nearly always: no logarithm
        return False
    return -log(random) * <double> cost_ns >= <double> fresh_ns
