"""A bounded memo of templates."""

from libc.stdint cimport uint64_t
from lb.inference.template cimport Template


cdef class Memo:
    cdef dict young
    cdef dict old
    cdef Py_ssize_t generation        # entries of one generation
    cdef readonly uint64_t hits, misses

    # None when it is not there.
    cdef Template get(self, bytes key)
    cdef int put(self, bytes key, Template template) except -1
