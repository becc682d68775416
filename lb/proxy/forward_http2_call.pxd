"""The stream of an exchange with a pool that speaks HTTP/2: its own, or its hedge's."""

from lb.core.head cimport Scan
from lb.proxy.exchange cimport Exchange
from lb.proxy.tries cimport Hedge, TryingExchange
from lb.upstream.http2_call cimport Http2Call


cdef class StreamCall(Http2Call):
    cdef TryingExchange exchange      # an Http2Exchange; None once it is over or cancelled
    cdef Hedge hedge                  # None: it is the exchange's own
    cdef char timeout[12]             # the value of grpc-timeout
    cdef bint head_seen
    cdef size_t held                  # bytes of the answer that the endpoint may not send anew yet


# Whether the head is of an answer that a hedge may give: of gRPC's one that has a message, or says OK.
cdef bint is_well(Exchange exchange, Scan *scan, bint last) noexcept
