"""gRPC status codes as HTTP statuses.

As the protocol's reference server maps them where it does (oip: INTERNAL 500, NOT_FOUND 404, UNAVAILABLE 503,
UNIMPLEMENTED 501; UNKNOWN, INVALID_ARGUMENT, ALREADY_EXISTS and CANCELLED 400), and as google.rpc.Code documents
where it does not.
"""

cdef int[17] HTTP = [
    200,  # OK
    400,  # CANCELLED
    400,  # UNKNOWN
    400,  # INVALID_ARGUMENT
    504,  # DEADLINE_EXCEEDED
    404,  # NOT_FOUND
    400,  # ALREADY_EXISTS
    403,  # PERMISSION_DENIED
    429,  # RESOURCE_EXHAUSTED
    400,  # FAILED_PRECONDITION
    409,  # ABORTED
    400,  # OUT_OF_RANGE
    501,  # UNIMPLEMENTED
    500,  # INTERNAL
    503,  # UNAVAILABLE
    500,  # DATA_LOSS
    401,  # UNAUTHENTICATED
]


cdef int http_status(int grpc) noexcept nogil:
    """An unknown code is a broken upstream: 502."""
    return HTTP[grpc] if 0 <= grpc <= 16 else 502


def grpc_to_http(int status):
    """The HTTP status for a gRPC status code; 502 for a code that does not exist."""
    return http_status(status)
