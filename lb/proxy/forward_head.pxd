"""The head of a request as an endpoint of HTTP/1.1 gets it."""

from lb.core.head cimport Scan
from lb.proxy.forward cimport ForwardExchange

# Writes it to `exchange.request`, and says whether it asks for an upgrade (`upgrading`). 0, or -1: out of memory, or of
# room.
cdef int build_head(ForwardExchange exchange, Scan *scan) noexcept
