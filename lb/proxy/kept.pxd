"""What an exchange does with the endpoint that its client stays with, by the pool's cookie (lb.upstream.cookie)."""

from libc.stdint cimport uint64_t
from lb.core.buffer cimport tg_buffer
from lb.core.head cimport Scan
from lb.proxy.exchange cimport Exchange

# Finds the endpoint that the cookie names, and takes the cookie out of the request.
cdef void read_cookie(Exchange exchange, Scan *scan) noexcept
# The endpoint that a cookie or a session names, or else any (`turn`: as for one whose turn it is); or TAKEN_….
cdef int acquire_kept(Exchange exchange, uint64_t now, bint turn) noexcept
# Set-Cookie, where the client has to be told of the endpoint that answers.
cdef void tell_client(Exchange exchange, tg_buffer *head) noexcept
