"""An exchange with a pool that speaks HTTP/2, gRPC in all its kinds included: one stream in front, one behind."""

from libc.stdint cimport uint64_t
from lb.core.buffer cimport tg_buffer
from lb.core.head cimport Field, Scan
from lb.proxy.tries cimport Hedge, TryingExchange
from lb.upstream.http2_call cimport Http2Call


cdef class StreamCall(Http2Call):
    cdef Http2Exchange exchange       # None once it is over or cancelled
    cdef Hedge hedge                  # None: it is the exchange's own
    cdef tg_buffer fields             # the request's, as a block
    cdef char timeout[12]             # the value of grpc-timeout
    cdef bint head_seen
    cdef size_t held                  # bytes of the answer that the endpoint may not send anew yet


cdef class Http2Exchange(TryingExchange):
    cdef StreamCall call
    cdef int grpc_status              # of the trailers; -1 = none came
    cdef bint sized                   # the answer's head has said how long it is
    cdef bint naming                  # looking for the model that the request is for, in the message that comes
    cdef bint looking                 # for the sequence that an inference belongs to, likewise
    cdef bint weighing                # for what it costs, likewise
    cdef bint learning                # its model's cost is learned by it
    cdef double units                 # 0 = not known
    cdef uint64_t cost_key            # of its model; 0 = that does not matter
    cdef bytes cost_model             # its name, where nothing was known of it
    cdef uint64_t sent_at             # when all of it was with the endpoint, where `learning`
    cdef bint any_endpoint            # if the model is ready nowhere: the call is not an inference

    # Whether the endpoint depends on the model that the request's first message names.
    cdef bint awaits_model(self, Scan *scan) noexcept
    # Looks for its name in what has come; True: the endpoint can be chosen now.
    cdef bint find_model(self) noexcept
    cdef bint inference               # of the Open Inference Protocol: it may be one of a sequence
    cdef bint again                   # its answer, which has no message, is to be forgotten for another try
    cdef void read_message(self) noexcept
    # Whether what it costs is in its first message; finds it out where it is not.
    cdef bint awaits_weight(self, Scan *scan) noexcept
    # True: it is known, as far as it can be.
    cdef bint find_weight(self) noexcept
    cdef void learn_cost(self) noexcept

    cdef int build_fields(self, Scan *scan) noexcept
    cdef int add_client_certificate(self, Scan *scan) noexcept
    cdef void start_try(self) noexcept
    cdef void look(self) noexcept
    cdef void answer_head(self, Scan *scan, bint last) noexcept
    cdef void answer_data(self, const char *data, size_t size, size_t *held) noexcept
    cdef void answer_trailers(self, Scan *scan) noexcept
    cdef void find_grpc_status(self, const Field *fields, int count) noexcept
    cdef void fail_in_trailers(self, int status, const char *reason, str message) noexcept
    cdef void call_over(self, int kind, bint begun) noexcept
    cdef bint whole(self) noexcept
    cdef bint in_sequence(self) noexcept
    cdef bint failed_head(self, Scan *scan, bint last) noexcept
    cdef void forget_answer(self) noexcept
    cdef bint may_retry(self, int kind, bint begun) noexcept
    cdef void request_room(self) noexcept
