"""An exchange with a pool that speaks HTTP/2, gRPC in all its kinds included: one stream in front, one behind."""

from libc.stdint cimport uint64_t
from lb.core.head cimport Field, Scan
from lb.proxy.forward_http2_call cimport StreamCall
from lb.proxy.stream_sequences cimport StreamSequences
from lb.proxy.tries cimport TryingExchange


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

    # forward_http2_fields, unless a subclass has more to say.
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
