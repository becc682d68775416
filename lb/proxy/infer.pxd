"""An exchange with a pool that speaks the Open Inference Protocol: HTTP with JSON or binary tensors in front, gRPC
behind."""

from libc.stdint cimport uint64_t
from lb.cache.flight cimport Flights
from lb.cache.store cimport ResultCache
from lb.core.buffer cimport tg_buffer
from lb.core.poller cimport Poller
from lb.core.segment cimport Segment
from lb.core.stream cimport iovec
from lb.inference.request cimport InferRequest
from lb.proxy.tries cimport Hedge, TryingExchange
from lb.upstream.grpc_call cimport GrpcCall
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
