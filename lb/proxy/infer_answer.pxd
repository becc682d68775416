"""The answer to an inference, as the codec makes it of the model server's: JSON or binary tensors."""

from lb.inference.response cimport InferResponse
from lb.proxy.infer cimport InferExchange

# The model server's error.
cdef void answer_error(InferExchange exchange, int grpc_status, str message) noexcept
# Its message as an answer, unless the exchange is over.
cdef void answer(InferExchange exchange, const char *message, size_t size) noexcept
# Both steps of that: the codec's form, None when it has none, and the exchange has failed; and sending it.
cdef InferResponse rendered(InferExchange exchange, const char *message, size_t size)
cdef void respond(InferExchange exchange, InferResponse response) noexcept
