"""gRPC status codes as HTTP statuses."""


cdef int http_status(int grpc) noexcept nogil
