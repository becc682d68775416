"""The routes of the Open Inference Protocol that infer nothing (health, metadata, the repository): rare, and in plain
Python."""

from lb.proxy.infer cimport InferExchange

# The request is here: answered now, or by an endpoint.
cdef void run_management(InferExchange exchange) noexcept
# The endpoint's answer, with gRPC's status.
cdef void management_answered(InferExchange exchange, int status, str message, bytes reply) noexcept
