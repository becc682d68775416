"""The variants of an answer that has a Vary field (RFC 9111 section 4.1)."""

from lb.http.head cimport Scan
from lb.net.buffer cimport tg_buffer

cdef enum:
    MOST_VARY = 512                   # bytes of names; an answer with more is not stored

# The names in the Vary fields of an answer, in lower case, a comma behind each; as they come. 0; -1: no memory, or too
# many.
cdef int vary_names(tg_buffer *into, const Scan *scan) noexcept nogil
# What a request says in the fields of these names, in a form that is the same for requests that mean the same: lines of
# a field are one list, white space around its elements does not count; of the Accept fields, case and order do not
# either. 0, or -1: no memory.
cdef int vary_values(tg_buffer *into, const char *names, size_t n, const Scan *scan) noexcept nogil
