"""A map from texts to texts, made once and then only read: for maps and lists of the configuration.

All of it is one block of bytes, which the master makes and every worker reads where it lies.
"""

from libc.stdint cimport uint32_t


cdef enum:
    LOOK_EXACT = 0
    LOOK_PREFIX                       # the longest key that the text begins with
    LOOK_SUFFIX                       # the longest key that the text ends with
    LOOK_DOMAIN                       # the text, or the longest name that it is below; in either case
    LOOK_REGEX                        # the first expression that is found in it
    LOOK_NETWORK                      # the narrowest network that the text, an address, is in

cdef enum:
    LOOK_LONGEST = 1024               # bytes of a key


cdef class Lookup:
    cdef readonly bytes block
    cdef readonly Py_ssize_t size     # entries
    cdef int how
    cdef bint fold                    # case of ASCII letters does not matter
    cdef const uint32_t *slots
    cdef uint32_t mask
    cdef const char *text             # the entries
    cdef const unsigned char *lengths  # set of lengths that keys have: a bit each
    cdef uint32_t shortest
    cdef uint32_t longest
    cdef tuple regexes
    cdef tuple answers                # of them

    cdef tuple entry(self, size_t at)
    # The value of `text`; it stays as long as the Lookup. False: it has none.
    cdef bint find(self, const char *text, size_t n, const char **value, size_t *length) noexcept
