"""How much a message of an inference has, counted before anything is made of it: what a message costs its reader is by
its fields rather than by its bytes, and a field may be of two bytes."""


cdef enum:
    PARAMETERS_MOST = 2048            # of a message, with those of its tensors
    TEXTS_MOST = 131_072              # elements of bytes_contents, each of which is a field


# Counts a ModelInferRequest: its tensors (MAX_TENSORS of each kind), the dimensions of a shape (MAX_RANK), parameters,
# and all fields (FIELDS_MOST), unknown ones included; `fields` is their number. NULL, or what it has too much of, or
# that it is malformed.
cdef const char *count_request(const char *message, size_t size, int *fields) noexcept nogil
# Of a ModelInferResponse the parameters and fields, texts aside: an answer is as large as its model makes it. NULL, or
# what it has too much of.
cdef const char *count_answer(const char *message, size_t size) noexcept nogil
