"""A choice among the endpoints of a pool that have not failed for this request or session yet.

A policy passes over one endpoint, the last that failed. Those that keep an order (hashes, `first`) would then go to and
fro between the first two of it, and never come to the third.
"""

from lb.endpoints.choice cimport Choice
from lb.upstream.pool cimport Pool

cdef enum:
    TRIED_MOST = 8                    # the last ones: who fails so often will hardly be served


cdef struct tg_tried:
    # Indexes of one pool: whoever goes on to another sets `count` to 0.
    int count
    int endpoints[TRIED_MOST]


cdef void tried_add(tg_tried *tried, int index) noexcept nogil
# As Pool.acquire, past `last`, which has failed (-1: none has), and those before it; where nobody else takes the
# request, past `last` only.
cdef int acquire_untried(Pool pool, Choice choice, int last, tg_tried *tried) noexcept
