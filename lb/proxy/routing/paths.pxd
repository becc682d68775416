"""The paths of one host's routes, compiled for look-ups whose cost does not grow with their number."""

from libc.stdint cimport uint32_t, uint64_t
from lb.http.regex cimport tg_piece
from lb.proxy.routing.textmap cimport TextMap


cdef struct tg_shape:                 # templates that differ in their literal text only
    int segments
    bint tail
    uint64_t mask                     # bit i: segment i is a name


cdef class PathIndex:
    cdef TextMap exact
    cdef TextMap prefixes
    cdef TextMap templates
    cdef uint32_t *lengths            # of prefixes, each once, ascending
    cdef int length_count
    cdef tg_shape *shapes
    cdef int shape_count
    cdef uint32_t *ranks              # by number of the pattern: the higher, the more particular
    cdef int *hits                    # where `find` leaves its finds
    cdef tuple regexes                # in their order
    cdef Py_ssize_t regex_count
    cdef bint simple                  # nothing but `any`
    cdef readonly tuple regex_numbers  # of their patterns
    cdef readonly int any             # number of the pattern that takes every path, or -1

    cdef int set_lengths(self, list lengths) except -1
    cdef int set_shapes(self, list shapes) except -1
    # Numbers of the exact, template and prefix patterns that match, in `hits`, the most particular one last; the count.
    cdef int find(self, const char *path, size_t n) noexcept
    cdef void find_templates(self, const char *path, size_t n, int *count) noexcept
    cdef void add_hit(self, int number, int *count) noexcept
    # Whether the i-th of `regexes` matches.
    cdef bint regex_matches(self, Py_ssize_t i, const char *path, size_t n) noexcept


# What the names of a template stand for in a path that it matches; `key` is Template.key. Their number, at most
# REGEX_GROUPS.
cdef int template_pieces(const char *key, size_t key_length, const char *path, size_t n,
                         tg_piece *pieces) noexcept nogil
