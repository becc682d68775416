"""What an answer says of its own caching: whether it may be stored, how old it is, how long it stays fresh."""

from libc.stdint cimport int64_t, uint32_t
from lb.http.head cimport Field, Scan
from lb.http.caching.directives cimport tg_directives

cdef enum:
    ANSWER_PUBLIC = 1 << 0            # its own words let answers to requests with Authorization be used again
    ANSWER_REVALIDATE = 1 << 1        # never to be used stale (must-revalidate, proxy-revalidate, s-maxage, no-cache)
    ANSWER_NO_CACHE = 1 << 2          # to be validated each time
    ANSWER_COOKIE = 1 << 3            # it sets a cookie
    ANSWER_VARIES = 1 << 4            # it has a Vary field
    ANSWER_VARIES_BY_ALL = 1 << 5     # with "*"
    ANSWER_EXPLICIT = 1 << 6          # it says how long it is fresh

cdef enum:
    WHY_STORED = 0                    # it may be stored
    WHY_REQUEST                       # the request forbids it: its method, no-store, Authorization
    WHY_STATUS                        # its status cannot be stored
    WHY_ANSWER                        # no-store or private
    WHY_VARY                          # Vary: *
    WHY_COOKIE                        # it sets a cookie
    WHY_LIFETIME                      # it is of no use later: neither fresh for a time, nor to be validated

# Of requests, what storing an answer goes by.
cdef enum:
    ASKED_BY_GET = 1 << 0
    ASKED_NO_STORE = 1 << 1
    ASKED_AUTHORIZED = 1 << 2         # it has an Authorization field
    ASKED_WITH_COOKIE = 1 << 3        # then only an answer that says how long it is fresh is stored

cdef struct tg_answer:
    int status
    uint32_t flags
    tg_directives control             # of Cache-Control, or of the field for us in its place (RFC 9213)
    int64_t date                      # wall clock, s; when it came, where it says nothing
    int64_t last_modified             # likewise; -1 = it does not say
    int64_t age                       # s, when it came (RFC 9111 section 4.2.3)
    int64_t lifetime                  # s from when it was made
    const Field *etag                 # NULL: none


# Reads an answer's head. `default_ttl`: s that it is fresh where it says nothing; 0 = by Last-Modified. `delay`: s from
# request to answer; `now`: wall clock, s. RFC 9111 sections 4.2.1 to 4.2.3.
cdef void answer_read(tg_answer *answer, const Scan *scan, int64_t default_ttl, int64_t delay,
                      int64_t now) noexcept nogil
# WHY_…, for a request that `asked` says what of (RFC 9111 section 3). `later`: s of its own that the route lets stale
# answers be used for.
cdef int answer_may_be_stored(const tg_answer *answer, uint32_t asked, bint ignore_cookie, int64_t later) noexcept nogil
# Whether a field may be stored: not with hop-by-hop fields and those that the answer itself excludes (RFC 9111 section
# 3.1).
cdef bint answer_field_stored(const tg_answer *answer, const Field *field) noexcept nogil
# Whether a 304 may change the stored field of this name (RFC 9111 section 3.2): not what describes the stored body.
cdef bint answer_field_updated(const char *name, size_t n) noexcept nogil
