"""Answers as they lie in the cache: a head that needs no parsing, and the body.

    tg_stored       what is decided by, of fixed size
    tg_line × n     of each field its lengths and id
    text            names and values of the fields, one behind the other; of STORED_VARIANTS the names in Vary
    body
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from lb.http.caching.answers cimport tg_answer
from lb.http.caching.conditions cimport tg_validators
from lb.http.caching.requests cimport tg_freshness
from lb.http.head cimport Scan
from lb.net.buffer cimport tg_buffer
from lb.proxy.exchange.http_cache.rules cimport HttpCacheRules


cdef enum:
    STORED_FORM = 0x54474832          # "TGH2": changes with the layout below
    STORED_ANSWER = 1
    STORED_VARIANTS = 2               # the answer has variants, by the request fields that `text` names
    STORED_PASS = 3                   # what the endpoint answers cannot be kept: requests need not wait for each other
    STORED_FIELDS = 960               # at most

cdef struct tg_stored:
    uint32_t form
    uint16_t kind
    uint16_t status
    uint32_t flags                    # ANSWER_… of lb.http.caching.answers
    uint32_t field_count
    uint32_t text_size
    int etag                          # number of its field; -1 = none
    uint32_t error                    # the endpoint's status where an error page tells another; 0 = `status`
    uint32_t unused
    int64_t date                      # wall clock, s
    int64_t last_modified             # likewise; -1 = none
    int64_t age                       # s, when it came
    int64_t lifetime                  # s
    int64_t stale_while_revalidate    # s
    int64_t stale_if_error            # s
    uint64_t received                 # monotonic ns
    uint64_t nonce                    # of STORED_VARIANTS: part of the variants' keys, so that those before are gone
    uint64_t body_size

cdef struct tg_line:
    uint32_t name_length
    uint32_t value_length
    uint16_t id
    uint16_t unused


# What an object begins with, or NULL: it is none of this form, or not of `size` bytes. `object` is aligned for it.
cdef const tg_stored *stored_head(const char *object, size_t size) noexcept nogil
cdef const char *stored_text(const tg_stored *stored) noexcept nogil
cdef const char *stored_body(const tg_stored *stored) noexcept nogil
# Begins an object with the head of an answer; its body follows, and then `stored_end`. `wall`: s, `now`: monotonic ns.
# 0, or -1: out of memory, or too many fields.
cdef int stored_begin(tg_buffer *into, const Scan *scan, const tg_answer *answer, HttpCacheRules rules, int64_t wall,
                      uint64_t now) noexcept
cdef void stored_end(tg_buffer *object) noexcept nogil
# An object that only says something (STORED_VARIANTS, STORED_PASS). 0 or -1.
cdef int stored_note(tg_buffer *into, int kind, uint64_t nonce, const char *text, size_t size) noexcept nogil
# The fields as a scan has them; they point into the object.
cdef void stored_scan(Scan *into, const tg_stored *stored) noexcept nogil
cdef void stored_freshness(tg_freshness *into, const tg_stored *stored, uint64_t now) noexcept nogil
cdef void stored_validators(tg_validators *into, const tg_stored *stored) noexcept nogil
# The head of the stored answer as a 304 of the endpoint changes it (RFC 9111 section 3.2).
cdef void stored_updated(Scan *into, const tg_stored *stored, const Scan *fresh) noexcept nogil
