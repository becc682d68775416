"""What binds an exchange to an endpoint: its sequence (lb.upstream.sequences); and what a reload does to such ties."""

from libc.stdint cimport uint64_t
from lb.proxy.exchange cimport Exchange
from lb.upstream.pool cimport Pool

# See Exchange.join_sequence.
cdef bint bind(Exchange exchange, uint64_t key, bint start, bint end) noexcept
# It was picked for the endpoint that it has: there its sequence begins, where it is the first of one.
cdef void begin_sequence(Exchange exchange) noexcept
# Whether its sequence lets it go to another endpoint than one that has not processed it: only the first request may,
# since nothing of the sequence is anywhere then.
cdef bint may_leave(Exchange exchange) noexcept
# It does: from now on any endpoint will do.
cdef void untie(Exchange exchange) noexcept
# Its endpoint is not to be had. True: it goes on at another, as it is the first of its sequence, or as the first has
# taken the sequence there meanwhile, which was at this endpoint in vain itself.
cdef bint goes_on(Exchange exchange) noexcept
# Its sequence is lost, if that is where it was to go.
cdef void lose_sequence(Exchange exchange) noexcept
# A request of it is over.
cdef void leave_sequence(Exchange exchange) noexcept
# A reload gave its pool another form: what it knows of endpoints and models is put into the numbers of that. The
# endpoint that has its sequence may be one of those that leave, or be gone (BOUND_LOST).
cdef void rebind(Exchange exchange, Pool pool) noexcept
# A reload has changed its pool since it came: the endpoint for its next try is one of the pool as it is now.
cdef void follow(Exchange exchange) noexcept
