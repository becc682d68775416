"""The `timeout` parameter of a gRPC inference request, as far as its first message has come."""

from libc.stdint cimport uint64_t


cdef enum:
    TIMEOUT_MORE = 0                  # it cannot be told from what is here
    TIMEOUT_NONE                      # the request has none, or cannot be read
    TIMEOUT_FOUND


# Looks through the beginning of a gRPC body (frames of ModelInferRequest), up to its inputs: encoders write fields in
# the order of their numbers. `us` is above 0.
cdef int first_timeout(const char *data, size_t size, uint64_t *us) noexcept nogil
# When an answer has to be there `us` microseconds after `start` (ns); UINT64_MAX: longer than anybody waits.
cdef uint64_t time_after(uint64_t start, uint64_t us) noexcept nogil
