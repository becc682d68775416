"""What binds an exchange to an endpoint: its sequence (lb.upstream.sequences); and what a reload does to such ties."""

from libc.stdint cimport uint64_t
from lb.proxy.exchange cimport Exchange
from lb.upstream.pool cimport Pool

# See Exchange.join_sequence.
cdef bint bind(Exchange exchange, uint64_t key, bint start, bint end) noexcept
# A request of it is over.
cdef void leave_sequence(Exchange exchange) noexcept
# A reload gave its pool another form: what it knows of endpoints and models is put into the numbers of that. The
# endpoint that has its sequence may be one of those that leave, or be gone (BOUND_LOST).
cdef void rebind(Exchange exchange, Pool pool) noexcept
# A reload has changed its pool since it came: the endpoint for its next try is one of the pool as it is now.
cdef void follow(Exchange exchange) noexcept
