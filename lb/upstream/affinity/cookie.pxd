"""The cookie by which a client stays with an endpoint: made, signed and read here; its transport is the exchange's."""

from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer
from lb.endpoints.set cimport EndpointSet


cdef class EndpointCookie:
    cdef readonly bytes name
    cdef EndpointSet endpoints
    cdef tuple keys                   # of 32 bytes each; the first signs
    cdef bytes scope                  # what else is signed: pool and name
    cdef bytes tail                   # the attributes, as text
    cdef uint64_t ttl                 # seconds; 0 = as long as the browser runs
    cdef uint64_t *ids                # of each endpoint, under the first key, then under the others

    # The endpoint that a cookie's value names at `now` (Unix seconds), -1 when it names none of the pool's, or is not
    # one of ours. `due`: it is time for a new one, also since another key signs now.
    cdef int index_of(self, const char *text, size_t n, uint64_t now, bint *due) noexcept
    # Appends the fields that make a client keep to endpoint `index`, all or nothing. 0, or -1 for want of memory.
    cdef int append(self, tg_buffer *head, int index, uint64_t now) noexcept
    cdef int sign(self, bytes key, const unsigned char *token, unsigned char *out) noexcept
    # The number of the key that has signed `token`, -1 for none of them.
    cdef int key_of(self, const unsigned char *token) noexcept
