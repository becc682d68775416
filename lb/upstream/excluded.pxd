"""A choice among the endpoints of a pool that have not failed for this request or session yet.

A policy passes over one endpoint, the last that failed. Those that keep an order (hashes, `first`) would then go to and
fro between the first two of it, and never come to the third.
"""

from libc.stdint cimport uint64_t
from lb.endpoints.choice cimport Choice
from lb.upstream.pool cimport Pool

cdef enum:
    EXCLUDED_MOST = 8                 # the last ones: a request that fails so often will hardly be served


cdef struct tg_excluded:
    # Indexes of one pool.
    int count
    int endpoints[EXCLUDED_MOST]
    uint64_t until[EXCLUDED_MOST]     # when each may be asked again, as it said; 0 = it did not say


# A pointer to one is NULL until something has failed, which is rare; its owner gives it to `free` at its end. Without
# memory for it, one that has failed is passed over until the next fails.
cdef void exclude(tg_excluded **excluded, int index) noexcept nogil
# They are of another pool.
cdef void forget_excluded(tg_excluded *excluded) noexcept nogil
# As Pool.acquire, past `last`, which has failed (-1: none has), and those before it; where nobody else takes the
# request, past those that may not be asked yet, and at last past `last` only.
cdef int acquire_past(Pool pool, Choice choice, int last, tg_excluded **excluded) noexcept
# Endpoint `index` has failed and may not be asked before `until`. When the request may go on: 0 where another endpoint
# takes it, else when the first of them may be asked again.
cdef uint64_t exclude_until(tg_excluded **excluded, Choice choice, int index, uint64_t until) noexcept nogil
