"""What a request asks of a cache, and whether a stored answer may be given to it."""

from libc.stdint cimport int64_t, uint32_t
from lb.http.head cimport Scan
from lb.http.caching.directives cimport tg_directives

cdef enum:
    REQUEST_CONDITIONAL = 1 << 0      # it has a precondition
    REQUEST_RANGE = 1 << 1            # it wants a part
    REQUEST_AUTHORIZED = 1 << 2
    REQUEST_COOKIE = 1 << 3

cdef struct tg_request:
    uint32_t flags
    tg_directives control             # of Cache-Control, or Pragma where there is none

cdef enum use:
    USE_FRESH                         # it is given
    USE_STALE                         # it is given although it is stale: the request lets it
    USE_STALE_REFRESH                 # it is given, and made anew meanwhile (RFC 5861 section 3)
    USE_VALIDATE                      # it is stale: the endpoint has to be asked
    USE_VALIDATE_REQUEST              # the request wants the endpoint to be asked

# What is known of a stored answer's age.
cdef struct tg_freshness:
    int64_t age                       # s, now
    int64_t lifetime                  # s
    int64_t stale_while_revalidate    # s behind its lifetime; 0 = none
    int64_t stale_if_error            # likewise
    uint32_t flags                    # ANSWER_… of answers.pxd

# Reads the fields of a request. Without `honoured` its directives count for nothing.
cdef void request_read(tg_request *request, const Scan *scan, bint honoured) noexcept nogil
# RFC 9111 sections 4.2 and 5.2.1. The stored answer was selected by the request's key already.
cdef use request_use(const tg_request *request, const tg_freshness *stored) noexcept nogil
# Whether a stored answer may be given in the place of an error (RFC 9111 section 4.2.4, RFC 5861 section 4).
cdef bint error_use(const tg_freshness *stored) noexcept nogil
