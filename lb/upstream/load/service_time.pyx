"""The service time of a pool: see service_time.pxd.

A model server that has just come up, or has had nothing to do for long, may load its model on the first request, or
compile it: seconds where the next takes milliseconds. Who came before that first answer has waited for the same
loading, at a server that works on one at a time as at others. None of these tells how long requests take, and a
forecast that believed them would refuse most of those that follow as hopeless. So an endpoint's answers count from the
first request on that was sent after an answer. A service that is slow by nature is known one request later for that.

The mean is of all that is known until that is 32 requests, so that an odd one among the first is soon outweighed.
"""

from libc.stdint cimport uint64_t

cdef enum:
    SMOOTHING = 32                    # requests over which the mean is taken, roughly
    SECOND_NS = 1_000_000_000
    STALE = 4                         # service times without a word, after which the mean is as good as unknown

# A silence after which a model may have been unloaded. Shorter ones are those of an endpoint with little to do.
cdef uint64_t COLD_NS = 60 * <uint64_t>SECOND_NS


cdef class ServiceTime:

    cdef void learn(self, uint64_t now, uint64_t latency) noexcept:
        """None makes more than double of it: what kept its place for minutes, as streams may, says little of others."""
        self.learned_at = now
        if self.count < SMOOTHING:
            self.count += 1
        if self.count == 1:
            self.mean = <double>latency
        else:
            self.mean += min((<double>latency - self.mean) / self.count, self.mean)

    cdef double known(self, uint64_t now) noexcept:
        if now > self.learned_at + <uint64_t>(STALE * self.mean) + SECOND_NS:
            return 0.0
        return self.mean

cdef class Warmth:

    cdef bint tells(self, uint64_t sent, uint64_t now, bint answered) noexcept:
        cdef bint cold = self.heard == 0 or sent > self.heard + COLD_NS
        if not answered:
            return not cold and sent >= self.warm_since
        self.heard = now
        if cold:
            self.warm_since = now
        return sent >= self.warm_since and not cold
