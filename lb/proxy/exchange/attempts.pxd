"""The tries of an exchange with an endpoint beyond its first: retries and their pauses, and a hedge."""

from libc.stdint cimport uint64_t
from lb.net.poller cimport Timed
from lb.proxy.exchange.exchange cimport Exchange
from lb.upstream.connections.http1 cimport Http1Call, Http1Upstream
from lb.upstream.connections.http2_call cimport Http2Call
from lb.upstream.pool cimport Pool


cdef class Pause(Timed):
    """The time before a retry."""
    cdef TryingExchange exchange


cdef class Hedge(Http1Call):
    """A second try beside the exchange's own: one that may come, or is under way (then it has an endpoint). It speaks
    to its endpoint by `upstream` (HTTP/1.1) or `call` (HTTP/2)."""
    cdef TryingExchange exchange      # None once it is over
    cdef Pool pool                    # the exchange's, in the form that it had when the hedge began
    cdef int endpoint                 # index in it, counted in flight there; -1 = not begun
    cdef int charged                  # as the exchange's
    cdef int crowd
    cdef short company
    cdef uint64_t picked_at
    cdef uint64_t waits_since         # the exchange's own try, also where it is not the first
    cdef uint64_t late_at             # from when on that try is late, whatever its endpoint does meanwhile
    cdef Http1Upstream upstream
    cdef Http2Call call


cdef class TryingExchange(Exchange):
    cdef Pause pause                  # None but for X_BACKOFF
    cdef Hedge hedge
    cdef uint64_t wait                # before the retry that was granted, ns
    cdef long pushback                # of the last answer, ms, or PUSHBACK_…
    # When the request was sent to the first endpoint, or its connect began, where there may be a hedge.
    cdef uint64_t waits_since

    # For the subclasses.
    # All of the request is here, and may be sent once more whatever became of the first time.
    cdef bint repeatable(self) noexcept
    # Send the request to the hedge's endpoint too. False: that failed at once.
    cdef bint launch_hedge(self, Hedge hedge) noexcept
    # Stop the hedge at its endpoint, or the exchange's own try, without a callback; the endpoint is told.
    cdef void cancel_hedge(self, Hedge hedge) noexcept
    cdef void cancel_try(self) noexcept
    # What runs for the hedge is the exchange's own from now on.
    cdef void adopt(self, Hedge hedge) noexcept
    cdef Hedge new_hedge(self)

    # Whether a failure of `kind` (RETRY_…, several or 0), or with gRPC's `code` (or -1), may be followed by a retry.
    cdef bint retry_named(self, int kind, int code) noexcept
    # Whether there is to be one. It is counted then, and `next_try` has to follow.
    cdef bint retry_granted(self, int kind, int code) noexcept
    cdef void next_try(self) noexcept
    # Another try although this one's connection is well, where the route asks for that: with `status` it has failed.
    # False: it has to do.
    cdef bint try_again(self, int kind, int status) noexcept
    # What was sent, for `hedge` or for the exchange itself (None), was refused unread and is sent to the same endpoint.
    cdef void count_again(self, Hedge hedge) noexcept

    # The request is sent, or is only waiting for its connection: there may be a hedge from now on.
    cdef void watch(self) noexcept
    cdef uint64_t unusual(self) noexcept
    cdef uint64_t stuck_at(self, Hedge hedge) noexcept
    cdef void learn_silence(self, uint64_t now) noexcept
    cdef void start_hedge(self) noexcept
    # Another endpoint than its own, of the pool as it is now; -1 = none has room.
    cdef int choose_hedge(self, Hedge hedge, uint64_t now) noexcept
    # The answer of the exchange's own try begins.
    cdef void own_answer(self) noexcept
    # The answer of the hedge begins, with `status` and gRPC status `code` (-1: none yet): True when it is taken; else
    # the hedge is over.
    cdef bint hedge_answer(self, Hedge hedge, bint good, int status, int code) noexcept
    # The hedge has failed by itself.
    cdef void hedge_failed(self, Hedge hedge, int kind) noexcept
    # The exchange's own try has failed and was let go: True when a hedge is under way, which is now all there is.
    cdef bint hedge_takes_over(self) noexcept
    cdef void drop_hedge(self) noexcept
    cdef void release_hedge(self, Hedge hedge, int status, int code, uint64_t latency, bint ok) noexcept
    # `code` as a gRPC status, where the endpoints are called by gRPC; else -1.
    cdef int code_of_call(self, int code) noexcept
