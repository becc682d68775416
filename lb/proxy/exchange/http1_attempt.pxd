"""An attempt at an endpoint that speaks HTTP/1.1: both bodies stream, nothing is held back that need not be."""

cimport cython
from libc.stdint cimport uint32_t
from lb.net.buffer cimport tg_buffer
from lb.http.head cimport Scan
from lb.net.stream cimport iovec
from lb.proxy.client.client cimport Client
from lb.proxy.exchange.exchange cimport Exchange, flag
from lb.upstream.connections.http1 cimport Http1Call, Http1Pool, Http1Upstream


cdef enum:
    HIGH_WATER = 64 * 1024            # bytes waiting on one side before the other is no longer read


@cython.final
cdef class Http1Attempt(Http1Call):
    cdef Http1Upstream upstream
    cdef tg_buffer request            # head and body as the endpoint gets them
    cdef tg_buffer trailers           # of the request, as lines
    cdef size_t sent                  # bytes of `request` that were handed to the endpoint
    cdef uint32_t chunk               # bytes of the last chunk, which more of the body may join (lb.http.chunks)
    cdef flag replayable              # `request` is all of it so far: it can be sent again
    cdef flag chunked                 # the request's body goes on in chunks
    cdef flag upgrading               # the request asks for another protocol, and may
    cdef flag alone                   # its connection is its client's alone
    cdef flag fresh                   # it wants a new connection

    cdef void send_request(self, Exchange exchange) noexcept
    # Whether pieces of the body wait for the end of the batch, in which more of them may come.
    cdef bint gathers(self) noexcept
    cdef int keep_body(self, const iovec *spans, int count, size_t size) noexcept
    cdef void spill(self, const iovec *spans, int count, size_t size, bint last) noexcept
    cdef int append_end(self, tg_buffer *out) noexcept
    cdef void take_interim(self, Exchange exchange, Http1Upstream upstream, Scan *scan) noexcept
    cdef bint take_head(self, Exchange exchange, Http1Upstream upstream, Scan *scan) noexcept
    cdef void take_end(self, Exchange exchange, Http1Upstream upstream, Scan *scan) noexcept
    # The connection is gone: another attempt, or the end of the exchange.
    cdef void lost(self, int kind) noexcept


# The head of a request as an endpoint of HTTP/1.1 gets it.

# Writes it to `attempt.request`, and says whether it asks for an upgrade (`upgrading`). 0, or -1: out of memory, or of
# room.
cdef int build_head(Http1Attempt attempt, Exchange exchange, Scan *scan) noexcept


# Long bodies between a client and an endpoint of HTTP/1.1, past this process: the kernel moves them through a pipe.
#
# Where both speak in clear and neither body is chunked, kept for another attempt or answered already, nobody here has
# to see the bytes. The parser is told how many they were, and gets the last of them as ever: it finds the end of the
# body.

# As `Exchange.pass_body` and `Http1Call.pass_answer`.
cdef Py_ssize_t pass_request(Http1Attempt attempt, Exchange exchange, size_t size) noexcept
cdef Py_ssize_t pass_response(Exchange exchange, Http1Upstream upstream, size_t size) noexcept


# Behind an upgrade that was granted (RFC 9110 section 7.8): bytes both ways, until one side has no more, or nothing
# has come for too long.

# Whether the endpoint's answer 101 grants what its request asked for (RFC 9110 section 7.8), a WebSocket by its key
# (RFC 6455 section 4.2.2).
cdef bint is_granted(Http1Attempt attempt, const Scan *scan) noexcept
# The endpoint's answer grants it.
cdef void switch_protocols(Exchange exchange, Http1Upstream upstream, Scan *scan) noexcept
# Bytes of the client, for the endpoint; it has room for more; its bytes, for the client.
cdef void take_raw(Exchange exchange, Http1Upstream upstream, const iovec *spans, int count, size_t size,
                   bint last) noexcept
cdef void raw_drained(Exchange exchange, Http1Upstream upstream) noexcept
cdef void give_raw(Exchange exchange, Http1Upstream upstream, const char *data, size_t n) noexcept


# A connection to an endpoint that is one client's alone.
#
# NTLM and Negotiate (RFC 4559 section 6) authenticate a connection, not a request: whoever sends the next request
# through it is taken for the same user. A connection that has carried one of them is therefore never another client's.
# A client of HTTP/1.1 keeps it for as long as it stays, and its requests keep to that endpoint, since the handshake
# takes several. For a client of HTTP/2, which has no such schemes, it is closed behind the answer.

# Whether a request brings proof of such a scheme; whether an answer asks for it.
cdef bint brings_proof(const Scan *scan) noexcept nogil
cdef bint asks_for_proof(const Scan *scan) noexcept nogil
# The exchange's client has a connection of its own in this pool: the exchange keeps to its endpoint.
cdef void keep_to_own(Exchange exchange) noexcept
# The client's own connection, which is the exchange's now, if it is of `channel` and none that is `fresh` is wanted;
# another is dropped. None: none.
cdef Http1Upstream take_own(Exchange exchange, Http1Pool channel, bint fresh)
# The exchange is over, and its connection its client's own.
cdef void give_own(Exchange exchange, Http1Upstream upstream) noexcept
# The client leaves.
cdef void drop_own(Client client) noexcept
