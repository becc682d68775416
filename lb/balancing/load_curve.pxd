"""What is known of an endpoint's speed by the number of requests that it has, and what follows from that."""

from libc.stdint cimport uint32_t, uint64_t

from lb.shared.segment_layout cimport tg_endpoint


cdef enum:
    CURVE_FREE = 0                    # nothing is known
    CURVE_GROWS                       # the more it has, the more it does: where that ends is not known
    CURVE_KNEE                        # from the limit on it does no more
    CURVE_LOOKS                       # less than the limit of before is tried


cdef struct tg_knee:
    int kind
    int limit                         # most requests in flight that are of use; 0 = not known
    int knee                          # the number in flight from which on throughput does not grow; 0 = not known
    double rate                       # requests per ns at most; 0 = not known


# A request that was sent when the endpoint had `load` requests, itself included, took `latency_ns`; its answer came at
# `now`, `gap_ns` after the one before it. A load is in average requests where a pool weighs them.
cdef void curve_learn(tg_endpoint *record, double load, double latency_ns, double gap_ns, uint64_t now) noexcept nogil

# Whether an answer need not be learned from: of thousands in a second one of eight says as much. `draw` is random.
cdef bint curve_rests(const tg_endpoint *record, uint32_t draw) noexcept nogil

# The time in ns that a request is expected to take that brings the load to `load`; 0: nothing is known.
cdef double curve_latency(const tg_endpoint *record, double load) noexcept nogil

# The time in ns for each request when it has `load` of them: that divided by the load; 0: nothing is known.
cdef double curve_each(const tg_endpoint *record, double load) noexcept nogil

# The time in ns that passes between an answer and the next, as one sees it who looks at any moment while the endpoint
# is busy (that a long gap is met more often than a short one is in it); 0: nothing is known.
cdef double curve_gap(const tg_endpoint *record) noexcept nogil

# Answers that the curve was learned from, since the endpoint joined.
cdef uint32_t curve_answers(const tg_endpoint *record) noexcept nogil

# What all that is known says at `now`. `allowed_ns` is the time that requests have, 0 = not known; `pressed`: requests
# wait for this endpoint among others, so that less may be tried.
cdef tg_knee curve_knee(
    const tg_endpoint *record, double allowed_ns, bint pressed, int running, uint64_t now) noexcept nogil

# Whether it is time to look for the limit again: at most once in some answers, and in 17 ms.
cdef bint curve_due(const tg_endpoint *record, uint64_t now) noexcept nogil
cdef void curve_set_limit(tg_endpoint *record, int limit, bint provisional, uint64_t now) noexcept nogil
# A limit that kept requests waiting while nothing was heard of the endpoint proves nothing: twice as many may go.
cdef void curve_relax(tg_endpoint *record, uint64_t heard, uint64_t now) noexcept nogil

# A request left without an answer, for want of time: half of those in flight are enough. What is in flight says nothing
# from now on, as it goes ahead of those that left.
cdef void curve_halve(tg_endpoint *record, int running, uint64_t now) noexcept nogil

# Answers to requests that were sent before the endpoint's first answer, or its first one after a long silence, say
# nothing of it: it may have loaded its model meanwhile. Whether one does that was sent at `sent` and answered at `now`.
cdef bint curve_warm(tg_endpoint *record, uint64_t heard, uint64_t sent, uint64_t now) noexcept nogil
