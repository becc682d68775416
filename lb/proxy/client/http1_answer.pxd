"""What an HTTP/1.1 connection says to its client: one answer after another, each framed as its request allows."""

from libc.stdint cimport uint32_t, uint64_t
from lb.net.buffer cimport tg_buffer
from lb.http.head cimport Scan
from lb.proxy.client.client cimport Client, Occupancy
from lb.proxy.exchange.exchange cimport Exchange
from lb.upstream.connections.http1 cimport Http1Upstream


cdef class AnsweringConnection(Client):
    # an Intake: lb.proxy.exchange.admission knows exchanges, and these know connections
    cdef Occupancy intake
    cdef Exchange exchange            # the one in progress, or None
    cdef bint raw                     # both ways carry another protocol than HTTP (an upgrade)
    cdef bint keep                    # another request may follow the one in progress
    cdef bint http10
    cdef bint chunking                # the answer goes out in chunks
    cdef uint32_t chunk               # bytes of the last one, which more of the answer may join (lb.http.chunks)
    cdef bint until_close             # the answer's end is the connection's
    cdef bint head_request            # the answer has no body, whatever its fields say
    cdef bint closing                 # close when `out` is empty
    cdef bint cut                     # the last answer ends before its end: the client has to be able to tell
    cdef Http1Upstream own            # a connection to an endpoint that is this client's alone, and idle; or None
    cdef tg_buffer trailers           # as lines
    cdef uint64_t send_deadline       # for the client to take something of what waits for it; 0 = nothing waits

    # For the subclass: the connection is over, and whoever is told of that is told.
    cdef void close_now(self) noexcept
    # The answer is complete, and another request may follow the rest of this one's body, which may be `most` bytes.
    cdef void skip_body(self, uint64_t most) noexcept
    cdef void connection_field(self) noexcept
    cdef void upgrade_field(self, const Scan *scan) noexcept
