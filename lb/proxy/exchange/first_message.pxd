"""The first message of a gRPC call as a body source: where the endpoint depends on what it says.

An inference names its model, which may not be ready everywhere, the sequence that it belongs to, whose state lives in
one endpoint, its batch, which tells what it costs, and its deadline, by which it stands in a queue. Nothing is sent on
before that is known.
"""

from libc.stdint cimport int64_t, uint64_t
from lb.http.head cimport Scan
from lb.proxy.exchange.exchange cimport BodySource, Exchange
from lb.proxy.exchange.stream_sequences cimport StreamSequences
from lb.upstream.connections.http2_call cimport Http2Call


cdef enum:
    WEIGHING_NS = 100_000_000         # longest wait for the message that tells what a request costs


cdef class FirstMessage(BodySource):
    cdef StreamSequences messages     # where each of them may belong to another sequence, else None
    cdef bint naming                  # looking for the model that the request is for
    cdef bint looking                 # for the sequence that an inference belongs to
    cdef bint weighing                # for what it costs
    cdef bint timing                  # for when its answer has to be there, as the pool's queue goes by that
    cdef bint inference
    cdef bint seen                    # a piece of it has come
    cdef bint infers                  # it is an inference
    cdef bint counting                # its model is counted (Pool.counts)
    cdef int64_t rows                 # of that
    cdef bint streams                 # each answer of the call is counted
    cdef size_t answers               # that were
    cdef uint64_t passed_at           # when a piece of a message was passed on last
    cdef bint learning                # its model's cost is learned by it
    cdef size_t enough                # bytes of the message to look again
    cdef double units                 # of its cost; 0 = not known
    cdef uint64_t cost_key            # of its model; 0 = that does not matter
    cdef bytes cost_model             # its name, where nothing was known of it
    cdef bytes log_model              # that an inference names, for metrics and the access log

    # The endpoint has sent so many answers in a stream.
    cdef void answered(self, Exchange exchange, size_t answers) noexcept
    cdef bint awaits_weight(self, Exchange exchange, Scan *scan) noexcept
    # Looks for what the endpoint depends on, and has one chosen when all is known.
    cdef void read(self, Exchange exchange, Http2Call call) noexcept
    # True: all is known, as far as it can be; or the exchange has failed.
    cdef bint find(self, Exchange exchange, Http2Call call) noexcept
    cdef void look(self, Exchange exchange, Http2Call call) noexcept
    cdef bint find_model(self, Exchange exchange, Http2Call call) noexcept
    cdef bint find_weight(self, Exchange exchange, Http2Call call) noexcept


# The head of a call to an endpoint has come. True: its endpoint depends on its first message, which the exchange's
# source looks at from now on.
cdef bint awaits_message(Exchange exchange, bint inference, Scan *scan) noexcept
# Looks for the `timeout` of an inference in what has come of its message: TIMEOUT_… of lb.inference.first_timeout. As
# over REST, it counts from the exchange's beginning, and ends the exchange.
cdef int look_for_timeout(Exchange exchange, const char *data, size_t size) noexcept
# Whether what is kept of a call's messages may name a sequence, whose state lives in one endpoint. Compressed ones may.
cdef bint may_name_sequence(Http2Call call) noexcept
