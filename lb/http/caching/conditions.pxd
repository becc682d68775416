"""Preconditions and ranges of requests (RFC 9110 sections 13 and 14), against a stored answer."""

from libc.stdint cimport int64_t, uint64_t
from lb.http.head cimport Scan

cdef struct tg_validators:
    const char *etag                  # with its quotes; NULL: none
    size_t etag_length
    int64_t last_modified             # s; -1 = none
    int64_t date                      # s: when the answer was made

cdef struct tg_part:
    int status                        # 200: all of it; 206: `first` to `last`; 304; 416: there is no such part
    uint64_t first
    uint64_t last                     # inclusive

# What a GET or HEAD gets of a stored 200 whose body has `size` bytes. `ranges`: it may be a part. Of several ranges,
# and of one that cannot be read, all is given (RFC 9110 section 14.2).
cdef void choose_part(tg_part *part, const Scan *scan, const tg_validators *stored, uint64_t size,
                      bint ranges) noexcept nogil
# Whether a list of entity tags has this one, or is "*"; by the weak comparison, or the strong one (section 8.8.3.2).
cdef bint tag_listed(const char *text, size_t n, const char *tag, size_t tag_length, bint strong) noexcept nogil
