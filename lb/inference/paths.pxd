"""The paths of inference requests, and of their results."""

from lb.http.grpc.protobuf cimport span


cdef enum:
    NO_MATCH = 0
    MATCH = 1                         # the model's span is its name
    MATCH_ESCAPED = 2                 # the model's name is percent-encoded: see decode_model

# Recognises /v2/models/M[/versions/V]/infer in a request target (what follows a "?" is ignored). `version` is empty
# when it is not given. The spans point into the path.
cdef int match_infer(const char *path, size_t n, span *model, span *version) noexcept nogil
# The same of /v2/models/M[/versions/V]/results/TOKEN; `token` is whatever follows, one segment of the path at least.
cdef int match_result(const char *path, size_t n, span *model, span *version, span *token) noexcept nogil
# The name behind a percent-encoded span (RFC 3986 section 2.1). Raises OipError(400) for a bad escape or what is not
# UTF-8.
cdef bytes decode_model(const span *model)
