"""Single flight over all workers: identical misses of several workers become one request."""

from libc.stdint cimport uint32_t, uint64_t

from lb.cache.layout cimport tg_flight, tg_flight_set, tg_flight_worker
from lb.cache.store cimport ResultCache
from lb.net.wakeups cimport Wakeups


cdef enum:
    # Of `join`.
    FLIGHT_LEADS = 1
    FLIGHT_FOLLOWS
    FLIGHT_FULL
    # Of `look`.
    FLIGHT_GOES_ON
    FLIGHT_OVER        # its answer is in the store, or somebody has to begin anew
    FLIGHT_UNSHARED    # it ended without an answer to share

cdef enum:
    LEASE_NS = 2_000_000_000
    # How often a worker looks after the flights that it has part in: renews its lease, and finds out what no wakeup
    # told of, since the process that was to send it is dead.
    LOOK_NS = 100_000_000


cdef class Claim:
    cdef tg_flight *at
    cdef uint64_t word


cdef class SharedFlights:
    cdef ResultCache cache            # whose region has the table
    cdef Wakeups wakeups
    cdef tg_flight_worker *workers
    cdef tg_flight_worker *own
    cdef tg_flight_set *sets
    cdef uint32_t mask                # of sets
    cdef uint32_t worker
    cdef uint32_t worker_count
    cdef uint64_t claims              # that it made
    cdef dict led                     # flight -> Claim
    cdef dict followed                # flight -> Claim of another worker

    # This worker has a miss. FLIGHT_LEADS: it is to ask, and `end` has to follow; it leads already, or from now on. An
    # answer may have come since the miss: it has to look in the store once more. FLIGHT_FOLLOWS: another worker asks; a
    # wakeup comes when `look` has something to say. FLIGHT_FULL: there is no room, so that it asks for itself.
    cdef int join(self, bytes flight, uint64_t now) noexcept
    # What has become of a flight that this worker follows.
    cdef int look(self, bytes flight, uint64_t now) noexcept
    # Whether other workers wait for the answer that this one is to bring.
    cdef bint awaited(self, bytes flight) noexcept
    # The flight is over if this worker leads one, and those who follow are woken. `shared`: what they find in the store
    # is theirs, and where they find nothing one of them begins anew. Else each asks for itself.
    cdef void end(self, bytes flight, bint shared) noexcept
    # Nobody in this worker waits for the flight any more that it follows; or it is over, and so known here.
    cdef void forget(self, bytes flight) noexcept
    # Go on leading. Has to be called every LOOK_NS or so.
    cdef void renew(self, uint64_t now) noexcept

    cdef bint lost(self, uint64_t claim, uint64_t now) noexcept
    cdef bint led_elsewhere(self, tg_flight_set *ways, tg_flight *at, uint32_t check, uint64_t now) noexcept
    cdef bint follow(self, bytes flight, tg_flight *at, uint64_t word) noexcept
    cdef void lead(self, bytes flight, tg_flight *at, uint64_t word) noexcept
    cdef void wake(self, tg_flight *at) noexcept
