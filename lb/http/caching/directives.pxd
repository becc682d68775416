"""Cache-Control of requests and answers (RFC 9111 section 5.2, RFC 5861), taken apart."""

from libc.stdint cimport int64_t, uint32_t
from lb.http.head cimport Scan

cdef enum:
    CC_NO_STORE = 1 << 0
    CC_NO_CACHE = 1 << 1              # without field names
    CC_PRIVATE = 1 << 2               # likewise
    CC_PUBLIC = 1 << 3
    CC_MUST_REVALIDATE = 1 << 4
    CC_PROXY_REVALIDATE = 1 << 5
    CC_MUST_UNDERSTAND = 1 << 6
    CC_ONLY_IF_CACHED = 1 << 7
    CC_ANY = 1 << 8                   # there is a directive, known or not
    CC_MALFORMED = 1 << 9             # the field is no list of directives
    NAMED_LISTS = 4
    MOST_SECONDS = 0x7fffffff         # a longer time counts as this (RFC 9111 section 1.2.2)

cdef struct tg_directives:
    uint32_t flags
    # Seconds; -1 = not given. Of one that is given twice, the shorter counts.
    int64_t max_age                   # an unreadable one is 0: the answer is stale (RFC 9111 section 4.2.1)
    int64_t s_maxage                  # likewise
    int64_t min_fresh
    int64_t max_stale                 # MOST_SECONDS without a value
    int64_t stale_while_revalidate
    int64_t stale_if_error
    # The field names of no-cache="…" and private="…", where these stand.
    int list_count
    const char *lists[NAMED_LISTS]
    uint32_t list_lengths[NAMED_LISTS]


cdef void directives_begin(tg_directives *into) noexcept nogil
# The directives of one field line are added.
cdef void directives_read(tg_directives *into, const char *text, size_t n) noexcept nogil
# Those of all lines of a head that have this name, in lower case. True: there is one.
cdef bint directives_of(tg_directives *into, const Scan *scan, const char *name) noexcept nogil
# Whether no-cache="…" or private="…" names this field.
cdef bint directives_name(const tg_directives *directives, const char *field, size_t n) noexcept nogil
# A number of seconds, which may stand in quotes: -1 when it is none.
cdef int64_t delta_seconds(const char *text, size_t n) noexcept nogil
