"""Answers of HTTP that give way to another attempt."""

from lb.http.head cimport Scan
from lb.proxy.exchange.exchange cimport Exchange

# Whether the answer is a failure that the route retries, or that gives way to a hedge: the attempt is over then, and
# the next one begins. What the answer says by Retry-After is heeded.
cdef bint retry_answer(Exchange exchange, const Scan *scan) noexcept
