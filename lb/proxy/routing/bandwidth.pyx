"""The bandwidth of a route's answers: see bandwidth.pxd.

Both limits are the Generic Cell Rate Algorithm that lb.shared.buckets tells of, with a byte as the token. A piece of an
answer is not refused but counted at once, and given the time at which it may go. So the answers of one key take turns
in the order in which they asked, over all workers, and each wakes once for a piece, however many there are. An answer
has one piece under way, so what a key owes is bounded by its requests.
"""

from libc.stdint cimport uint64_t
from lb.net.timers cimport Timers
from lb.proxy.routing.bucket_key cimport BucketKey
from lb.shared.buckets cimport Buckets, tg_limit, tg_verdict

cdef enum:
    SECOND_NS = 1_000_000_000
    PIECE_MOST = 16 * 1024            # bytes
    PIECE_LEAST = 1448                # a segment of TCP
    TURNS_OF_SECOND = 64

cdef uint64_t UNBOUNDED = <uint64_t>1 << 61


cdef size_t piece_at(uint64_t rate):
    """Bytes of a piece: some milliseconds' worth, at least a segment of TCP, and at most what may come at once."""
    return <size_t>min(max(rate // TURNS_OF_SECOND, <uint64_t>PIECE_LEAST), <uint64_t>PIECE_MOST, rate // 4)


cdef inline uint64_t time_of(size_t n, uint64_t rate) noexcept nogil:
    """Nanoseconds that so many bytes take, rounded up."""
    return (<uint64_t>n * SECOND_NS + rate - 1) // rate


cdef class Bandwidth:
    """`plan` is a BandwidthPlan of the route `route`, whose path is `path`, of `path_kind`; `maps` are as in Format.
    Raises OSError when the system has no timer."""

    def __init__(self, plan, str route, Buckets buckets not None, Timers timers not None, path_kind="", path="",
                 maps=None):
        timers.open()
        self.timers = timers
        self.buckets = buckets
        self.per_request = plan.per_request
        self.after = plan.after
        self.per_key = plan.per_key
        self.piece = PIECE_MOST
        if self.per_request:
            self.piece = piece_at(self.per_request)
        if self.per_key:
            self.piece = min(self.piece, piece_at(self.per_key))
            self.key = BucketKey(plan.key, plan.key_name, buckets, "bandwidth:" + route, path_kind, path, maps)

    cdef uint64_t grant(self, size_t n, uint64_t key, uint64_t now, uint64_t *paid_at, uint64_t *taken) noexcept nogil:
        cdef uint64_t ready = now
        cdef tg_limit limit
        cdef tg_verdict verdict
        if paid_at != NULL:
            paid_at[0] = max(paid_at[0], now) + time_of(n, self.per_request)
            if paid_at[0] > now + SLACK_NS:
                ready = paid_at[0] - SLACK_NS
        if self.per_key:
            limit.interval = time_of(n, self.per_key)
            limit.depth = UNBOUNDED
            self.buckets.take(key, &limit, now, &verdict)
            if not verdict.admitted:          # another process stands still in the middle of a claim
                return max(ready, now + limit.interval)
            taken[0] = limit.interval
            if verdict.reset > SLACK_NS:
                ready = max(ready, now + verdict.reset - SLACK_NS)
        return ready

    cdef void give_back(self, uint64_t key, uint64_t now, uint64_t taken) noexcept nogil:
        cdef tg_limit limit
        limit.interval = taken
        limit.depth = UNBOUNDED
        self.buckets.put_back(key, &limit, now)
