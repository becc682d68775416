"""What is said to a client whose exchange gets no endpoint, or fails."""

from lb.proxy.exchange cimport Exchange
from lb.proxy.refusal cimport Refusal

# No endpoint for it, and no place in the queue (any more): fails it by `why`, Q_….
cdef void refuse_exchange(Exchange exchange, int why) noexcept
# An answer of our own with `status`: says when to come back, why it was this endpoint, and what other origins may.
cdef Refusal refusal_of(Exchange exchange, int status, str message)
