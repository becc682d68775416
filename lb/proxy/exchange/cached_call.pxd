"""A unary inference over gRPC or gRPC-Web whose answer may be in the result cache.

Its message is gathered, in its attempt, and looked up by what it means, so that clients of gRPC, JSON and binary
requests share the entries, and wait for each other's answers. What is not answered here goes on as any gRPC call does,
by the attempt: the message as the client wrote it there, the answer as the endpoint wrote it back, and a copy of that
into the cache.
"""

cimport cython
from lb.http.head cimport Field, Scan
from lb.net.buffer cimport tg_buffer
from lb.proxy.exchange.cached cimport AnswerCache, CachedBody
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.exchange.first_message cimport FirstMessage
from lb.proxy.exchange.grpc_web_codec cimport WebCodec
from lb.upstream.connections.http2_call cimport Http2Call


@cython.final
cdef class CachedCall(CachedBody):
    cdef FirstMessage first           # what the endpoint depends on besides, and the record; None: nothing
    cdef WebCodec web                 # for answers that are made here; None: the client speaks gRPC
    cdef bytes kind                   # the content type of the call, as of gRPC
    cdef bytes encoding               # of a compressed request (grpc-encoding); None: none was named
    cdef bytes id                     # of the request; b"" = none
    cdef bint gathering               # whether the cache is asked is not decided yet
    cdef bint taking                  # the endpoint's answer is kept, for the cache and those who wait
    cdef tg_buffer reply              # that answer, gRPC's prefix included
    cdef bytes reply_encoding
    cdef tg_buffer original           # the client's message, while rows of it are asked for in its place
    cdef bint combining               # the endpoint's answer is to those rows: the client gets what is made of it
    cdef str problem                  # why there is none: the endpoint's grpc-message

    # More of the request has come.
    cdef void gather(self, Exchange exchange, Http2Call call, bint last) noexcept
    # All of it has.
    cdef void run(self, Exchange exchange, Http2Call call) noexcept
    # Its digest and id. False: it is nothing for the cache.
    cdef bint read(self, Exchange exchange, Http2Call call) noexcept
    # Past the cache.
    cdef void pass_by(self, Exchange exchange, Http2Call call) noexcept

    # What its attempt says of the endpoint's answer.
    # The head; `extra` are field lines that the client gets besides.
    cdef void take_head(self, Exchange exchange, Scan *scan, tg_buffer *extra) noexcept
    # A piece of the body.
    cdef void take_answer(self, Exchange exchange, const char *data, size_t size) noexcept
    # The fields that its gRPC status, another one than OK, came with.
    cdef void take_error(self, const Field *fields, int count) noexcept
    # The head of an answer to rows.
    cdef void take_rows_head(self, Scan *scan) noexcept
    cdef void find_encoding(self, Scan *scan) noexcept
    # Such an answer is complete; the exchange has its gRPC status.
    cdef void combine(self, Exchange exchange) noexcept
    # The answer is complete, and has gone out; the exchange has its gRPC status.
    cdef void answered(self, Exchange exchange) noexcept
    # The message of `reply`. None: it is not the one whole message that it has to be, or cannot be read.
    cdef bytes unpacked(self)


# The body source of a call with this head to a pool of the Open Inference Protocol, on a route with a cache; `speaks`
# is SPEAKS_… of refusal.pxd. None: it is none whose answer is kept.
cdef CachedCall new_cached_call(AnswerCache answers, int speaks, const Scan *scan)
