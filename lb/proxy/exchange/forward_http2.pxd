"""An exchange with a pool that speaks HTTP/2, gRPC in all its kinds included: one stream in front, one behind."""

from libc.stdint cimport uint64_t
from lb.http.head cimport Field, Scan
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.exchange.stream_sequences cimport StreamSequences
from lb.proxy.exchange.attempts cimport Hedge, TryingExchange
from lb.upstream.connections.http2_call cimport Http2Call


cdef class Http2Exchange(TryingExchange):
    cdef StreamCall call
    cdef int grpc_status              # of the trailers; -1 = none came
    cdef bint sized                   # the answer's head has said how long it is
    cdef bint chunks_trailers         # the client takes trailers, and has to have chunks for that (HTTP/1.1)
    cdef bint naming                  # looking for the model that the request is for, in the message that comes
    cdef bint looking                 # for the sequence that an inference belongs to, likewise
    cdef StreamSequences messages     # where each of them may belong to another sequence, else None
    cdef bint weighing                # for what it costs, likewise
    cdef size_t enough                # bytes of that message to look again
    cdef bint learning                # its model's cost is learned by it
    cdef double units                 # 0 = not known
    cdef uint64_t cost_key            # of its model; 0 = that does not matter
    cdef bytes cost_model             # its name, where nothing was known of it
    cdef uint64_t sent_at             # when all of it was with the endpoint, where `learning`
    cdef bytes log_model              # that an inference names, for the access log
    cdef bint any_endpoint            # if the model is ready nowhere: the call is not an inference
    cdef bint unary_inference         # a ModelInfer of that protocol
    cdef bint inference               # of the Open Inference Protocol: it may be one of a sequence
    cdef bint again                   # its answer, which has no message, is to be forgotten for another try

    # `request_fields`, unless a subclass has more to say.
    cdef int build_fields(self, Scan *scan) noexcept
    cdef void start_try(self) noexcept
    cdef void answer_head(self, Scan *scan, bint last) noexcept
    cdef void answer_data(self, const char *data, size_t size, size_t *held) noexcept
    cdef void answer_trailers(self, Scan *scan) noexcept
    cdef void find_grpc_status(self, const Field *fields, int count) noexcept
    cdef void call_over(self, int kind, bint begun) noexcept
    cdef bint whole(self) noexcept
    cdef bint failed_head(self, Scan *scan, bint last) noexcept
    cdef void forget_answer(self) noexcept
    cdef bint may_retry(self, int kind, bint begun) noexcept
    cdef void request_room(self) noexcept
    cdef void mirror(self) noexcept


# The fields of a request that goes on over HTTP/2: what the client sent, and what this hop adds.

# Into the call's block, without :scheme and grpc-timeout, which are known when the stream is opened. 0, or not 0 (no
# memory).
cdef int request_fields(Http2Exchange exchange, Scan *scan) noexcept


# The stream of an exchange with a pool that speaks HTTP/2: its own, or its hedge's.

cdef class StreamCall(Http2Call):
    cdef TryingExchange exchange      # an Http2Exchange; None once it is over or cancelled
    cdef Hedge hedge                  # None: it is the exchange's own
    cdef char timeout[12]             # the value of grpc-timeout
    cdef bint head_seen
    cdef size_t held                  # bytes of the answer that the endpoint may not send anew yet


# Whether the head is of an answer that a hedge may give: of gRPC's one that has a message, or says OK.
cdef bint is_well(Exchange exchange, Scan *scan, bint last) noexcept


# What the first message of a call says where the endpoint depends on it: its model, its sequence, what it costs.

# Whether the endpoint depends on the model that the request's first message names.
cdef bint awaits_model(Http2Exchange exchange, Scan *scan) noexcept
# Whether what it costs is in its first message; finds it out where it is not.
cdef bint awaits_weight(Http2Exchange exchange, Scan *scan) noexcept
# Looks at what has come of it, and goes on once all is known.
cdef void read_message(Http2Exchange exchange) noexcept
# Whether what is kept of its messages may name a sequence, whose state lives in one endpoint. A compressed one may.
cdef bint may_name_sequence(Http2Exchange exchange) noexcept
# The model that a message names, of which `body` is the first piece; None: that is not in it.
cdef bytes model_of(const char *body, size_t n)
# How long the endpoint took says what such a call costs.
cdef void learn_cost(Http2Exchange exchange) noexcept


# gRPC answers that break off.

# Ends an answer that has begun by a gRPC status, for what would be the HTTP `status`: a stream that is reset says
# INTERNAL, whatever the reason was (gRPC over HTTP2, "Errors").
cdef void end_in_trailers(Http2Exchange exchange, int status, const char *reason, str message) noexcept
