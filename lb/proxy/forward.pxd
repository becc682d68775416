"""An exchange with a pool that speaks HTTP/1.1: both bodies stream, nothing is held back that need not be."""

from libc.stdint cimport uint32_t, uint64_t
from lb.core.buffer cimport tg_buffer
from lb.core.head cimport Scan
from lb.core.stream cimport iovec
from lb.proxy.exchange cimport flag
from lb.proxy.tries cimport Hedge, TryingExchange
from lb.upstream.http1 cimport Http1Upstream


cdef enum:
    HIGH_WATER = 64 * 1024            # bytes waiting on one side before the other is no longer read


cdef class Http1Hedge(Hedge):
    pass


cdef class ForwardExchange(TryingExchange):
    cdef Http1Upstream upstream
    cdef tg_buffer request            # head and body as the endpoint gets them
    cdef size_t sent                  # bytes of `request` that were handed to the endpoint
    cdef flag kept                    # `request` is all of it so far: it can be sent again
    cdef flag chunked                 # the request's body goes on in chunks
    cdef flag upgrading               # the request asks for another protocol, and may
    cdef flag upgraded                # it was granted: bytes both ways (RFC 9110 section 7.8)
    cdef flag alone                   # its connection is its client's alone (lb.proxy.own_connection)
    cdef float kibibytes              # of the body that is announced, where requests are weighed; 0 = not known
    cdef uint32_t chunk               # bytes of the last chunk, which more of the body may join (lb.core.chunks)
    cdef tg_buffer trailers           # of the request, as lines

    cdef void start_try(self, bint fresh) noexcept
    cdef void send_hedge(self, Hedge hedge) noexcept
    cdef void send_request(self) noexcept
    # Whether pieces of the body wait for the end of the batch, in which more of them may come.
    cdef bint gathers(self) noexcept
    cdef bint may_retry(self, int kind) noexcept
    cdef void try_failed(self, int kind) noexcept
    cdef int keep_body(self, const iovec *spans, int count, size_t size) noexcept
    cdef void spill(self, const iovec *spans, int count, size_t size, bint last) noexcept
    cdef int append_end(self, tg_buffer *out) noexcept
