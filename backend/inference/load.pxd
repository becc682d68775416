"""What the server says of its load with every answer: ORCA, as gRPC and Envoy know it (gRFC A51).

Load balancers weigh servers by it, and ask for it where other balancers use the same servers: Prequal (NSDI 2024,
section 4) wants the requests in flight and the latency that requests have with so many in flight.
"""

from libc.stdint cimport uint8_t, uint64_t


cdef enum:
    LOAD_RANGES = 256                 # of requests in flight
    LOAD_RECENT = 16                  # latencies that are kept for each
    LOAD_TEXT = 160                   # room for a report in base64


cdef struct tg_recent:
    uint8_t count
    uint8_t next
    uint64_t[LOAD_RECENT] latency     # ns


cdef class Load:
    """Requests in flight, queue included, on `slots` places where one can be worked on. Belongs to one loop."""
    cdef readonly int slots
    cdef readonly uint64_t in_flight
    cdef tg_recent *recent
    # Of the window that runs, and of the last one: requests, failures, and the time that places were taken.
    cdef uint64_t since, changed, requests, failures, taken
    cdef double rps, eps, utilization
    # The report as it was made last, for a moment of the loop.
    cdef char[LOAD_TEXT] text
    cdef int text_size
    cdef uint64_t text_at             # monotonic ns

    # A request begins: what `ended` has to be told.
    cdef int began(self, uint64_t now) noexcept
    # `latency` in ns; 0: nothing is said of it, since the request was refused. `failed`: by a fault that is ours.
    cdef void ended(self, int begun, uint64_t now, uint64_t latency, bint failed) noexcept
    cdef void count(self, uint64_t now) noexcept
    cdef void turn(self, uint64_t now) noexcept
    # A report in base64 (RFC 4648, without padding), LOAD_TEXT at most; what is told within one moment is the same.
    cdef const char *header(self, uint64_t now, int *size) noexcept
    cdef int write(self, char *into, uint64_t now) noexcept
    cdef double latency_at(self, uint64_t in_flight) noexcept
