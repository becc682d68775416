"""A choice among the endpoints of a pool that have not failed for this request or session yet.

A policy passes over one endpoint, the last that failed. Those that keep an order (hashes, `first`) would then go to and
fro between the first two of it, and never come to the third.
"""

from libc.stdint cimport int32_t, uint64_t
from lb.endpoints.set cimport EndpointSet
from lb.upstream.pool cimport Pool

cdef enum:
    TRIED_MOST = 8                    # the last ones: who fails so often will hardly be served


cdef struct tg_tried:
    # Indexes of one pool: whoever goes on to another sets `count` to 0.
    int count
    int endpoints[TRIED_MOST]
    int32_t limits[TRIED_MOST]        # theirs, while they are shut


cdef void tried_add(tg_tried *tried, int index) noexcept nogil
# Between these two calls those that were tried take nothing, from anybody: they surround a choice (a worker has one
# thread).
cdef void tried_shut(tg_tried *tried, EndpointSet endpoints) noexcept nogil
cdef void tried_open(tg_tried *tried, EndpointSet endpoints) noexcept nogil
# As Pool.acquire_wanted, past `last`, which has failed (-1: none has), and those before it; where nobody else takes it,
# past `last` only.
cdef int acquire_untried(Pool pool, uint64_t now, uint64_t key, int last, tg_tried *tried, uint64_t wanted,
                         bint turn) noexcept
