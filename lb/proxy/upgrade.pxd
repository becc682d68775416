"""Behind an upgrade that was granted (RFC 9110 section 7.8): bytes both ways, until one side has no more, or nothing
has come for too long."""

from lb.core.head cimport Scan
from lb.core.stream cimport iovec
from lb.proxy.forward cimport ForwardExchange
from lb.upstream.http1 cimport Http1Upstream

# Whether the endpoint's answer 101 grants what its request asked for (RFC 9110 section 7.8), a WebSocket by its key
# (RFC 6455 section 4.2.2).
cdef bint is_granted(ForwardExchange exchange, const Scan *scan) noexcept
# The endpoint's answer grants it.
cdef void switch_protocols(ForwardExchange exchange, Http1Upstream upstream, Scan *scan) noexcept
# Bytes of the client, for the endpoint; it has room for more; its bytes, for the client.
cdef void take_raw(ForwardExchange exchange, const iovec *spans, int count, size_t size, bint last) noexcept
cdef void raw_drained(ForwardExchange exchange, Http1Upstream upstream) noexcept
cdef void give_raw(ForwardExchange exchange, Http1Upstream upstream, const char *data, size_t n) noexcept
