"""Which answers of a route are compressed, and how."""

from lb.http.head cimport Field, Scan


cdef class CompressionRules:
    cdef tuple codings                # names, the most wanted first
    cdef tuple makers                 # of encoders (lb.http.encoders), in the same order
    cdef frozenset types              # in lower case; b"text/" stands for text/*
    cdef bint any_type
    cdef size_t min_length
    cdef bint private

    # Which coding the answer to a request should have, an index of `codings`; -1 = none of them.
    cdef int choose(self, const Scan *request) noexcept
    # Whether answers of the type that this one has are compressed, where it is not already, nor says that it has to
    # stay as it is: then the answer depends on Accept-Encoding.
    cdef bint has_type(self, const Field *field) noexcept
    cdef bint concerns(self, const Scan *answer) noexcept
    # Whether such an answer is worth it, and may be.
    cdef bint takes(self, const Scan *answer) noexcept
