"""Requests that wait for another worker's answer: identical misses of several workers are one request."""

from lb.cache.shared_flights cimport SharedFlights
from lb.cache.store cimport ResultCache
from lb.net.poller cimport Source
from lb.proxy.exchange.exchange cimport BodySource


cdef enum:
    LEADS = 1                         # it is to ask; `end` has to follow
    FOLLOWS                           # another worker asks
    ALONE                             # there is no room: it asks for itself


cdef class Awaiting(BodySource):
    """Of a request that waits, or does not any more."""
    cdef Elsewhere elsewhere          # None: it does not wait for another worker
    cdef bytes name                   # of the flight

    # The flight is over: its answer is in the store, or somebody has to ask. `alone`: others' answers will not do.
    cdef void go_on(self, bint alone) noexcept


cdef class Elsewhere(Source):
    """The part of a worker in the flights of all (lb.cache.shared_flights)."""
    cdef SharedFlights shared
    cdef dict awaiting                # name of a flight that another worker leads -> dict of Awaiting, in their order

    # A miss of this worker: LEADS, FOLLOWS or ALONE.
    cdef int join(self, bytes name) noexcept
    # Behind FOLLOWS: the request goes on when the flight is over.
    cdef void wait(self, bytes name, Awaiting request) noexcept
    cdef void leave(self, Awaiting request) noexcept
    # The same of an answer for which no client waits here, nor will behind FOLLOWS.
    cdef int claim(self, bytes name) noexcept
    # Whether other workers wait for the answer that this one makes.
    cdef bint awaited(self, bytes name) noexcept
    # The flight is over, if this worker leads it. `shared`: its answer, if any, is in the store; else it is of no use
    # to others.
    cdef void end(self, bytes name, bint shared) noexcept

    cdef void landed(self, bytes name, bint alone) noexcept
