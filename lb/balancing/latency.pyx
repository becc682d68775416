"""What policies know of the endpoints' latencies: averages in the shared segment, which every worker feeds.

The average is exponential in time: a sample counts for as much as the time since the one before it, so that busy and
quiet endpoints forget at the same rate. It lives in the endpoint's record and so outlives reloads and workers.
Workers write it without a lock and may lose each other's samples.
"""

from libc.math cimport exp
from libc.stdint cimport uint64_t
from lb.endpoints.set cimport EndpointSet

# Finagle's penalty: more than any latency.
cdef double UNKNOWN_NS = (2**63 - 1) / 65_536


cdef class Latencies:
    """The averages of `endpoints`. `decay` is the time constant in ns.

    With `peaks`, a sample above the average replaces it, so that a slow moment is believed at once and forgotten
    slowly.
    """

    def __init__(self, endpoints: EndpointSet, decay: int, peaks: bool) -> None:
        self.endpoints = endpoints
        self.decay_rate = -1.0 / decay
        self.peaks = peaks

    cdef double faded(self, int index, uint64_t now) noexcept:
        """The average in ns as if samples of 0 had come ever since its last one: what is long ago says less and less,
        and a slow endpoint is tried again. 0: nothing is known."""
        cdef double latency = self.endpoints.latency_ns(index)
        return latency * self.kept(index, now) if latency > 0 else 0.0

    cdef double pending(self, int index) noexcept:
        """What a request in flight counts for, in ns: the average whatever its age, or when nothing is known more than
        any, so that an unknown endpoint gets one request to show itself by, and others only if all are unknown."""
        cdef double latency = self.endpoints.latency_ns(index)
        return latency if latency > 0 else UNKNOWN_NS

    cdef double kept(self, int index, uint64_t now) noexcept:
        """The share of the average that time has left of it."""
        cdef uint64_t updated = self.endpoints.latency_updated(index)
        # Another worker may have been later than this event.
        return exp(self.decay_rate * (now - updated)) if now > updated else 1.0

    cdef void add(self, int index, uint64_t now, uint64_t latency_ns, bint ok) noexcept:
        """A request to `index` took `latency_ns`.

        A failed one (not `ok`) counts for no less than the average, or the highest of the pool where there is none:
        an endpoint that refuses at once must not look fast.
        """
        cdef double average = self.endpoints.latency_ns(index)
        cdef double sample = float(latency_ns)
        cdef double kept
        if not ok:
            sample = max(sample, average if average > 0 else self.highest(now))
        if average > 0 and not (self.peaks and sample > average):
            kept = self.kept(index, now)
            sample = average * kept + sample * (1.0 - kept)
        self.endpoints.set_latency(index, sample, now)

    cdef double highest(self, uint64_t now) noexcept:
        cdef double highest = 0.0
        cdef int i
        for i in range(self.endpoints.size):
            highest = max(highest, self.faded(i, now))
        return highest
