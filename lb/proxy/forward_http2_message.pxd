"""What the first message of a call says where the endpoint depends on it: its model, its sequence, what it costs."""

from lb.core.head cimport Scan
from lb.proxy.forward_http2 cimport Http2Exchange


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
