"""A choice among the endpoints of a pool that have not failed for this request or session yet.

A policy passes over one endpoint, the last that failed. Those that keep an order (hashes, `first`) would then go to and
fro between the first two of it, and never come to the third.
"""

from lb.endpoints.choice cimport Choice
from lb.upstream.pool cimport Pool

cdef enum:
    EXCLUDED_MOST = 8                 # the last ones: a request that fails so often will hardly be served


cdef struct tg_excluded:
    # Indexes of one pool: whoever goes on to another sets `count` to 0.
    int count
    int endpoints[EXCLUDED_MOST]


cdef void exclude(tg_excluded *excluded, int index) noexcept nogil
# As Pool.acquire, past `last`, which has failed (-1: none has), and those before it; where nobody else takes the
# request, past `last` only.
cdef int acquire_past(Pool pool, Choice choice, int last, tg_excluded *excluded) noexcept
