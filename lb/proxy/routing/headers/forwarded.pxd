"""What the next hop is told of where a request came from, and what a request is called: X-Forwarded-*, Forwarded, Via,
X-Request-Id and traceparent, for HTTP/1.1 and HTTP/2 alike."""

cimport cython
from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer
from lb.http.head cimport Scan
from lb.http.trace cimport tg_trace
from lb.proxy.accept.trusted cimport TrustedProxies


cdef enum:
    FORWARDED_OFF = 0
    FORWARDED_APPEND = 1
    FORWARDED_REPLACE = 2
    FORWARDED_PRESERVE = 3

cdef enum:
    HOP_FIELDS = 8                    # there are seven
    REQUEST_ID_LIMIT = 128            # bytes of an id that is taken over
    SOURCE_LIMIT = 46
    VIA_LIMIT = 128


cdef struct tg_ids:
    # What one request is called and whose it is; kept with its exchange, where its listener asks for any of it.
    tg_trace trace
    bint traced
    unsigned char source_length       # 0 = the peer is the client
    unsigned char request_id_length   # 0 = none
    char source[SOURCE_LIMIT]         # the client's address, as trusted proxies tell it
    char request_id[REQUEST_ID_LIMIT]


cdef struct tg_hop_field:
    const char *name                  # in lower case, for HTTP/2
    size_t name_length
    size_t start                      # of the value, from the head of the text
    size_t length


cdef struct tg_hop:
    # The fields of one request. `text` is the caller's: lines are appended to it as HTTP/1.1 has them, and `fields`
    # says where names and values lie in it, for a protocol that has no lines.
    tg_buffer *text
    char *begun                       # the text's head, and where the next byte goes, while they are made
    char *at
    char *line                        # where the line of the field that is being made begins
    uint64_t omit                     # bits of header ids: fields that are not told
    int count
    tg_hop_field fields[HOP_FIELDS]


cdef struct tg_hop_cache:
    # What a connection's requests are given while they bring none of it themselves, for the host that they name.
    uint64_t serial                   # of the Forwarding that made it; 0 = nothing yet
    bint wanted                       # the last request's fields may be kept
    tg_buffer host
    tg_buffer block                   # as the protocol of the pool wants it


@cython.final
cdef class Forwarding:
    cdef readonly int mode
    cdef TrustedProxies trusted
    cdef readonly bint standard       # Forwarded (RFC 7239), too
    cdef readonly bint request_id
    cdef readonly bint tracing
    cdef readonly bint wants_ids      # whether `identify` finds anything
    cdef int parent
    cdef uint64_t threshold           # trace_threshold of the ratio
    cdef bytes via                    # pseudonym
    cdef size_t via_length            # 0 = no Via
    cdef char port[5]                 # of the listener, in digits
    cdef size_t port_length           # 0 = not told
    cdef uint64_t serial              # none has the same
    cdef size_t room                  # bytes that the fields take, besides what comes with a request

    # The ids of a request from `peer` (text; empty for a Unix socket), from malloc: free() them. NULL: none are wanted,
    # or memory is out, and the request goes on without.
    cdef tg_ids *identify(self, const Scan *scan, const char *peer, size_t n) noexcept
    # Appends the request's new fields to hop.text, and marks in the scan those that came and must not go on (`hop`).
    # `scheme` is http or https, `version` 10, 11 or 20: how the request came. 0, or -1 when memory is out.
    cdef int collect(self, Scan *scan, const tg_ids *ids, const char *peer, size_t n, const char *scheme, int version,
                     tg_hop *hop) noexcept
    # Whether `cache` has what `collect` would make of a request over this connection that has no ids. When it has not,
    # but could have, the cache is made ready for `keep`; `block` is then what the pool's protocol makes of it.
    cdef bint cached(self, const Scan *scan, tg_hop_cache *cache) noexcept
    cdef void keep(self, tg_hop_cache *cache, const char *block, size_t n) noexcept
    cdef void add_x_forwarded(self, Scan *scan, int mode, bint known, const char *peer, size_t n, const char *scheme,
                              size_t scheme_length, tg_hop *hop) noexcept
    cdef void add_forwarded(self, Scan *scan, int mode, const char *peer, size_t n, const char *scheme,
                            size_t scheme_length, tg_hop *hop) noexcept
    cdef void add_via(self, Scan *scan, int version, tg_hop *hop) noexcept
    cdef void add_ids(self, Scan *scan, const tg_ids *ids, tg_hop *hop) noexcept
