"""Connections to endpoints that could not be begun: whose fault that was, told where it was this host's."""

from libc.stdint cimport uint64_t


# FAIL_CONNECT or FAIL_NO_SOCKET, for a connection to `address` that failed at once with this errno. What this host is
# out of is logged, once a minute in each worker.
cdef int failed_connect(str address, int error, uint64_t now) noexcept

# What a client is told of FAIL_NO_SOCKET.
cdef str NO_SOCKET
