"""What an inference asks for, as its head and its body say: the codec's side of a request."""

from lb.core.head cimport Scan
from lb.proxy.infer cimport InferExchange

# The model and version, or else the path and method of a management call; and the body's coding and form. False: the
# exchange has failed.
cdef bint read_request_head(InferExchange exchange, Scan *scan) noexcept
# All of the body is here: the message of an inference, if it is one. False: the exchange has failed.
cdef bint read_request_body(InferExchange exchange) noexcept
