"""A message in memory that its sender may change at any time: what is looked at twice is copied first."""

from libc.stdint cimport uint8_t
from lb.inference.message cimport RequestMessage


# As memcpy, reading each byte once.
cdef void copy_shared(uint8_t *into, const char *data, size_t size) noexcept nogil
# As `read_request`, of a copy of all but large tensors, which stay where they are. The copy is malloc's, and what else
# the request points to. NULL: the message has to be copied as a whole, or there is no memory.
cdef char *read_shared(RequestMessage *request, const char *message, size_t size) noexcept
