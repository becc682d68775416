"""How long an exchange waits for its endpoint, and what becomes of it then."""

from libc.stdint cimport uint64_t
from lb.proxy.exchange cimport Exchange

# Longest wait for an answer to begin, in nanoseconds; 0 = none. The route's own goes before its pool's.
cdef uint64_t limit_of_answer(Exchange exchange) noexcept
# The same for a single try, which the route may give up sooner.
cdef uint64_t limit_of_try(Exchange exchange) noexcept
# The time has come that the exchange was armed for: its turn in the queue did not, its request's rest, or its answer.
cdef void time_is_over(Exchange exchange) noexcept
