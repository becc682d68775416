"""The model that a gRPC request of the protocol is about, as far as its first message has come."""


cdef enum first_model_result:
    MODEL_UNKNOWN = 0                 # more of it is needed
    MODEL_FOUND
    MODEL_ABSENT                      # it names none, or cannot be read: it is compressed, or malformed

# `data` is the beginning of a stream of length-prefixed messages. With MODEL_FOUND, `name` points into it. Field 1 of
# every request about a model is its name; should it be there twice, the first counts.
cdef int first_model(const char *data, size_t size, const char **name, size_t *n) noexcept nogil
