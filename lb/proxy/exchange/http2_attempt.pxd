"""An attempt at an endpoint that speaks HTTP/2, gRPC in all its kinds included: one stream in front, one behind."""

cimport cython
from lb.http.head cimport Field, Scan
from lb.inference.stream_messages cimport StreamMessages
from lb.net.stream cimport iovec
from lb.proxy.exchange.cached_call cimport CachedCall
from lb.proxy.exchange.exchange cimport Exchange, flag
from lb.proxy.exchange.grpc_web_codec cimport WebCodec
from lb.proxy.exchange.mirror.comparison cimport Comparison
from lb.upstream.connections.http2_call cimport Http2Call


@cython.final
cdef class Http2Attempt(Http2Call):
    cdef WebCodec web                 # of a client that speaks gRPC-Web, else None
    cdef CachedCall cached            # of an answer that may go into the result cache; else None
    cdef StreamMessages messages      # of an answer to ModelStreamInfer, which may need another form; else None
    cdef Comparison comparison        # of its answer with that to a mirror's copy; else None
    cdef char timeout[12]             # the value of grpc-timeout
    cdef flag head_seen
    cdef flag sized                   # the answer's head has said how long it is
    cdef flag chunks_trailers         # the client takes trailers, and has to have chunks for that (HTTP/1.1)
    cdef flag inference               # of the Open Inference Protocol: it may be one of a sequence
    cdef flag unary_inference         # a ModelInfer of that protocol
    cdef flag timing                  # its message may still say when the answer has to be there
    cdef flag again                   # its answer, which has no message, is to be forgotten for another attempt
    cdef size_t enough                # bytes of the message to look for that again
    cdef size_t held                  # bytes of the answer that the endpoint may not send anew yet

    cdef void send_body(self, Exchange exchange, const char *data, size_t size) noexcept
    # Looks for the timeout in what has come of the message, all of it if `whole`.
    cdef void find_timeout(self, Exchange exchange, bint whole) noexcept
    # A piece of the answer in the form that the client reads, in `part` then. False: the answer is over.
    cdef bint translate(self, Exchange exchange, iovec *part) noexcept
    cdef void answer_head(self, Exchange exchange, Scan *scan, bint last) noexcept
    cdef void answer_trailers(self, Exchange exchange, Scan *scan) noexcept
    cdef void find_grpc_status(self, Exchange exchange, const Field *fields, int count) noexcept
    # Where much waits for the client, the endpoint gets no window for what came.
    cdef void hold(self, Exchange exchange, size_t size, size_t *held) noexcept
    cdef bint whole(self) noexcept
    cdef void rows_head(self, Exchange exchange, Scan *scan, bint last) noexcept
    cdef bint failed_head(self, Exchange exchange, Scan *scan, bint last) noexcept
    cdef void give_up(self, Exchange exchange, int kind) noexcept
    cdef bint rescued(self, Exchange exchange, Scan *scan, bint last) noexcept
    cdef void forget_answer(self, Exchange exchange) noexcept
    cdef void sent(self, Exchange exchange) noexcept
    cdef void mirror(self, Exchange exchange) noexcept


# The fields of a request that goes on over HTTP/2: what the client sent, and what this hop adds.

# Into the attempt's block, without :scheme and grpc-timeout, which are known when the stream is opened. 0, or not 0 (no
# memory).
cdef int request_fields(Http2Attempt attempt, Exchange exchange, Scan *scan) noexcept


# Whether the head is of an answer that a hedge may give: of gRPC's one that has a message, or says OK.
cdef bint is_well(Exchange exchange, Scan *scan, bint last) noexcept
