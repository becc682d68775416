"""Copies of requests for another pool: never in the way of the originals, their answers thrown away."""

from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer
from lb.net.poller cimport Poller
from lb.proxy.exchange.mirror.comparison cimport Comparer, Comparison
from lb.upstream.attempt cimport Attempt
from lb.upstream.connections.http1 cimport Http1Call, Http1Upstream
from lb.upstream.pool cimport Pool


cdef enum:
    MIRROR_ANSWER_LIMIT = 1024 * 1024  # of an answer that is read away; then its connection, or stream, is ended


cdef class Mirror:
    cdef readonly Pool pool
    cdef uint64_t per_million
    cdef int max_in_flight
    cdef size_t max_bytes
    cdef int in_flight
    cdef size_t held                  # bytes of the copies under way
    cdef Comparer comparer            # None: answers are not compared

    # Whether this request is to be copied: at random, and where the limits leave room. Counts those that they do not.
    cdef bint wants(self) noexcept
    # A copy of `size` bytes begins at `now`: `copy` has taken an endpoint. False: there is none for it.
    cdef bint begin(self, Attempt copy, size_t size, uint64_t key, uint64_t now) noexcept
    cdef int price(self, size_t size, uint64_t now) noexcept
    # It is over, with `received` bytes of an answer; `status` is ours (502, 504) where none came, `code` of gRPC, -1 =
    # none, and `verdict` what that says of the endpoint (lb.upstream.load.outlier). `answered`: the endpoint has
    # answered.
    cdef void end(self, Attempt copy, size_t size, size_t received, int status, int code, int verdict,
                  bint answered) noexcept
    # For a copy that has begun, whose answer is to be compared with its original's; None: it is not.
    cdef Comparison compare(self, bint framed)
    # How long to wait for an answer, in nanoseconds.
    cdef uint64_t patience(self) noexcept
    # A request is complete, as it went to its endpoint; `replayable` says that `request` is all of it.
    cdef void offer(self, Poller poller, const tg_buffer *request, bint replayable, uint64_t key,
                    bint head_method) noexcept
    # Sends a copy of `request`, a whole request as it goes to an endpoint of HTTP/1.1. Never fails: it counts.
    cdef void send(self, Poller poller, const tg_buffer *request, uint64_t key, bint head_method) noexcept


cdef class MirrorCall(Http1Call):
    cdef Mirror mirror
    cdef Poller poller
    cdef Http1Upstream upstream
    cdef tg_buffer request
    cdef size_t size                  # of the request
    cdef size_t received              # bytes of the answer's body
    cdef int status
    cdef bint head_method

    cdef void finish(self, bint ok, bint reusable) noexcept


cdef struct tg_mirror_counts:         # of the worker since it started
    uint64_t sent
    uint64_t failed                   # no endpoint, no connection, no answer in time, or too large a one
    uint64_t skipped                  # a limit was reached, or the request was not kept whole

cdef tg_mirror_counts mirror_counts
