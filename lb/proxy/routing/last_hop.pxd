"""TRACE and OPTIONS that go no further than here (RFC 9110 section 7.6.2)."""

from lb.http.head cimport Scan
from lb.proxy.exchange.exchange cimport Exchange


# Answers a request whose Max-Forwards is 0: True. Else the next hop is told one less.
cdef bint answers_last_hop(Exchange exchange, Scan *scan) noexcept
