"""The textual parts of gRPC over HTTP/2: timeouts, status codes, status messages. Pure functions over bytes."""

from libc.stdint cimport uint64_t


cdef enum:
    GRPC_OK = 0
    GRPC_UNKNOWN = 2
    TIMEOUT_SIZE = 12                 # room for any value of grpc-timeout

# Writes `ns` as the value of grpc-timeout (at most eight digits and a unit): exact and as short as possible, or, where
# eight digits do not hold it, rounded up in the finest unit that does. Returns its length; `round` tells whether it is
# a whole number of milliseconds, written exactly, and so likely to be said again.
cdef int grpc_timeout(char *into, uint64_t ns, bint *round) noexcept nogil
# The nanoseconds of a grpc-timeout value, 0 when it is none.
cdef uint64_t grpc_timeout_ns(const char *value, size_t size) noexcept nogil
# A grpc-status value; anything but a code of the specification is GRPC_UNKNOWN.
cdef int grpc_status(const char *value, size_t size) noexcept nogil
# An HTTP :status value, or 0.
cdef int http_status(const char *value, size_t size) noexcept nogil
# The gRPC code that stands for an HTTP status where the peer sent no grpc-status.
cdef int grpc_status_of_http(int status) noexcept nogil
# Decodes the percent encoding of grpc-message from `value` to `into` (which may be the same and has room for `size`):
# malformed escapes stay as they are. Returns the length.
cdef size_t percent_decode(char *into, const char *value, size_t size) noexcept nogil

# When the server wants a call again (grpc-retry-pushback-ms, gRFC A6): milliseconds, or one of these.
cdef enum:
    PUSHBACK_NONE = -1                # it did not say
    PUSHBACK_NEVER = -2
cdef long pushback_ms(const char *value, size_t n) noexcept nogil
