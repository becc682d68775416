"""An exchange with a pool that speaks the Open Inference Protocol: HTTP with JSON or binary tensors in front, gRPC
behind."""

from libc.stdint cimport uint64_t
from lb.cache.flight cimport Flights
from lb.cache.store cimport ResultCache
from lb.net.buffer cimport tg_buffer
from lb.http.head cimport Scan
from lb.net.poller cimport Poller
from lb.shared.segment cimport Segment
from lb.net.stream cimport iovec
from lb.inference.request cimport InferRequest
from lb.inference.response cimport InferResponse
from lb.proxy.exchange.attempts cimport Hedge, TryingExchange
from lb.upstream.connections.grpc_call cimport GrpcCall
from lb.upstream.pool cimport Pool


cdef class InferContext:
    """What the inference exchanges of a worker share."""
    cdef Poller poller
    cdef Segment segment
    cdef ResultCache cache            # None = no result cache
    cdef Flights flights
    cdef tg_buffer stored             # a message on its way into, or out of, the cache


cdef class InferCall(GrpcCall):
    cdef InferExchange exchange       # None once it is cancelled
    cdef Hedge hedge                  # None: it is the exchange's own
    cdef iovec single                 # the message of a management call
    cdef uint64_t due                 # its deadline, which the endpoint knows as grpc-timeout


cdef class InferExchange(TryingExchange):
    cdef InferContext context
    cdef InferCall call
    cdef tg_buffer body
    cdef InferRequest request         # None for a management call
    cdef object management            # a management Call with its gRPC request, or None
    cdef object path                  # of a management request
    cdef bytes verb
    cdef bytes model
    cdef bytes version
    cdef bytes encoding               # Content-Encoding, b"" = none
    cdef Py_ssize_t json_length
    cdef bytes digest                 # the key in the cache, None = not cached
    cdef bint leading                 # others wait for this exchange's answer
    cdef bint following
    cdef bint stored                  # the answer went into the cache
    cdef short model_status           # gRPC status of the last attempt's answer; -1 = none came

    # Its units, where requests are weighed.
    cdef double units(self) noexcept
    cdef void learn_cost(self) noexcept
    cdef void run(self) noexcept
    cdef bint join(self, InferRequest request) noexcept
    cdef bint send_call(self, InferCall call, Pool pool, int endpoint) noexcept
    cdef void keep_report(self, InferCall call) noexcept
    cdef void answered(self, int status, const char *message, size_t n) noexcept
    cdef void call_failed(self, int kind) noexcept
    cdef bint may_retry(self, int kind) noexcept


# What an inference asks for, as its head and its body say: the codec's side of a request.

# The model and version, or else the path and method of a management call; and the body's coding and form. False: the
# exchange has failed.
cdef bint read_request_head(InferExchange exchange, Scan *scan) noexcept
# All of the body is here: the message of an inference, if it is one. False: the exchange has failed.
cdef bint read_request_body(InferExchange exchange) noexcept


# The answer to an inference, as the codec makes it of the model server's: JSON or binary tensors.

# The model server's error.
cdef void answer_error(InferExchange exchange, int grpc_status, str message) noexcept
# Its message as an answer, unless the exchange is over.
cdef void answer(InferExchange exchange, const char *message, size_t size) noexcept
# Both steps of that: the codec's form, None when it has none, and the exchange has failed; and sending it.
cdef InferResponse rendered(InferExchange exchange, const char *message, size_t size)
cdef void respond(InferExchange exchange, InferResponse response) noexcept


# The result cache before an inference, and the single flight: of identical misses the first asks, the others wait.

# Answers from the cache, waits for who asks already, or asks an endpoint.
cdef void through_cache(InferExchange exchange) noexcept
# Put the answer into the cache, without the id of the request it answered.
cdef void store(InferExchange exchange) noexcept
# The leader's answer is here: the followers get it too.
cdef void land(InferExchange exchange, const char *message, size_t size) noexcept
# No answer to share. An error that is the request's own fault is everybody's; else they try for themselves.
cdef void release_followers(InferExchange exchange, int grpc_status, str message) noexcept
# It waits for nobody any more, and nobody for it.
cdef void leave_flight(InferExchange exchange) noexcept


# The routes of the Open Inference Protocol that infer nothing (health, metadata, the repository): rare, and in plain
# Python.

# The request is here: answered now, or by an endpoint.
cdef void run_management(InferExchange exchange) noexcept
# The endpoint's answer, with gRPC's status.
cdef void management_answered(InferExchange exchange, int status, str message, bytes reply) noexcept
