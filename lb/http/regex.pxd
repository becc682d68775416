"""Regular expressions that take time linear in the text, whatever the text is (RE2)."""


cdef enum:
    REGEX_GROUPS = 10                 # \0 to \9: what a substitution can refer to


cdef struct tg_piece:                 # a part of a text
    size_t start
    size_t end
    bint set                          # the group took part in the match


cdef class Regex:
    cdef void *engine                 # re2::RE2
    cdef readonly int groups          # capturing groups of the pattern

    # Whether the pattern is found anywhere in `text`; `^` and `$` bind it to the ends.
    cdef bint search(self, const char *text, size_t n) noexcept nogil
    # The first match at or behind `start`: the whole match and its groups go to `pieces` (REGEX_GROUPS of them).
    cdef bint find(self, const char *text, size_t n, size_t start, tg_piece *pieces) noexcept nogil
