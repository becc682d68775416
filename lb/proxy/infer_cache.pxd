"""The result cache before an inference, and the single flight: of identical misses the first asks, the others wait."""

from lb.proxy.infer cimport InferExchange

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
