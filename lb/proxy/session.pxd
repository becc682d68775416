"""What an exchange does with the sessions that its pool learns (lb.upstream.sessions)."""

from lb.core.head cimport Field, Scan
from lb.proxy.exchange cimport Exchange

# Finds the endpoint of the request's session.
cdef void read_session(Exchange exchange, const Scan *scan) noexcept
# An endpoint's answer is taken: learns what its fields say. `status` is as of HTTP, 500 where gRPC's is not OK.
cdef void learn_session(Exchange exchange, int status, const Field *fields, int count) noexcept
