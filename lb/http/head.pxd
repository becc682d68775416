"""A message's head and what was found of its body: the same whatever HTTP it came by. No I/O, no routes.

llhttp fills it in for HTTP/1.x (lb.http.http1), lb.http.http2.head for HTTP/2. One worker-wide `Scan` receives what one
call finds; its spans are plain pointers into the bytes that were given, so that a connection needs no header table of
its own.
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from lb.net.buffer cimport tg_buffer
from lb.net.stream cimport iovec


cdef enum:
    H_OTHER = 0
    H_HOST
    H_CONNECTION
    H_KEEP_ALIVE
    H_PROXY_CONNECTION
    H_PROXY_AUTHENTICATE
    H_PROXY_AUTHORIZATION
    H_TE
    H_TRAILER
    H_TRANSFER_ENCODING
    H_UPGRADE
    H_CONTENT_LENGTH
    H_EXPECT
    H_X_FORWARDED_FOR
    H_X_FORWARDED_PROTO
    H_X_FORWARDED_HOST
    H_CONTENT_TYPE
    H_CONTENT_ENCODING
    H_COOKIE
    H_CACHE_CONTROL
    H_INFERENCE_LENGTH
    H_HTTP2_SETTINGS
    H_FORWARDED
    H_VIA
    H_X_FORWARDED_PORT
    H_X_REQUEST_ID
    H_TRACEPARENT
    H_TRACESTATE
    H_GRPC_TIMEOUT
    H_GRPC_STATUS
    H_DATE

cdef enum:
    # A method that llhttp has no number for. Fits a set of 64 bits.
    M_OTHER = 63
    MAX_FIELDS = 1024                 # hard limit of a scan; the configuration allows listeners 1000
    MAX_SPANS = 64
    MAX_TRAILERS = 64
    TRAILER_BYTES = 16 * 1024

cdef enum:
    SCAN_OK = 0
    SCAN_BAD = 1                      # not HTTP, or a framing that could be read in two ways
    SCAN_TOO_MANY_FIELDS = 2
    SCAN_URI_TOO_LONG = 3


cdef struct Field:
    const char *name
    const char *value
    uint32_t name_length
    uint32_t value_length
    uint16_t id                       # enum header_id
    bint hop                          # hop-by-hop: not passed on (RFC 9110 section 7.6.1)


cdef struct Trailers:
    # The trailer section as it comes: "name: value\r\n" lines.
    tg_buffer lines
    int count
    int state


cdef struct Scan:
    # The head: valid when `head` is set, for as long as the bytes given to execute are.
    int version                       # of HTTP, times ten
    int method                        # llhttp's number, or M_OTHER
    const char *method_text           # where it is M_OTHER
    uint32_t method_length
    int status
    bint has_length
    bint chunked
    uint64_t content_length
    bint websocket                    # HTTP/2: an extended CONNECT for a WebSocket (RFC 8441)
    const char *target
    uint32_t target_length
    const char *reason
    uint32_t reason_length
    int field_count
    int max_fields
    Field fields[MAX_FIELDS]
    int first[32]                     # first field of an id, -1 = none
    int host_count
    # What this call of execute found.
    bint head
    bint complete
    int span_count
    iovec spans[MAX_SPANS]
    size_t body_bytes                 # sum of the spans
    # Behind a complete body; valid until the parser's next call. Those that may not stand there are marked `hop`.
    int trailer_count
    Field trailers[MAX_TRAILERS]
    # Inner state.
    Trailers *lines
    bint in_trailers
    bint skip_body
    int error


cdef Scan *worker_scan() noexcept     # this process's Scan
# By its name: id and `hop`.
cdef void classify(Field *field) noexcept nogil


# Empties the head of a scan; then fields come.
cdef inline void scan_begin(Scan *scan) noexcept nogil:
    scan.method_text = NULL
    scan.method_length = 0
    scan.target_length = 0
    scan.reason_length = 0
    scan.field_count = 0
    scan.host_count = 0
    scan.fields[0].name_length = 0
    scan.fields[0].value_length = 0
    memset(scan.first, 0xff, sizeof(scan.first))


# Whether an answer says when it was made, to whoever it is passed on to.
cdef inline bint is_dated(const Scan *scan) noexcept nogil:
    return scan.first[H_DATE] >= 0 and not scan.fields[scan.first[H_DATE]].hop


# Whether a body follows the head of a request: over HTTP/1.1 all of it may be here with the head.
cdef inline bint has_body(const Scan *scan) noexcept nogil:
    return not scan.complete or scan.span_count


# The field behind the last one was filled in where it lies: it counts.
cdef inline void scan_next(Scan *scan) noexcept nogil:
    cdef Field *field = &scan.fields[scan.field_count]
    classify(field)
    if field.id and scan.first[field.id] < 0:
        scan.first[field.id] = scan.field_count
    if field.id == H_HOST:
        scan.host_count += 1
    scan.field_count += 1


# Adds one: 0, or -1 when there are too many.
cdef int scan_field(Scan *scan, const char *name, size_t name_length, const char *value,
                    size_t value_length) noexcept nogil
# Takes a trailer section apart: field lines whose memory outlives the use of the scan. 0, or -1: too many.
cdef int scan_trailers(Scan *scan, const char *lines, size_t n) noexcept nogil
# Its id, and `hop` where a trailer section may not have it.
cdef void classify_trailer(Field *field) noexcept nogil
# The name in lower case of a known field; it stays.
cdef const char *known_name(int id) noexcept nogil
cdef bint same_name(const char *a, size_t n, const char *lower) noexcept nogil
# A decimal number without sign: -1 when it is not one, or too large.
cdef int64_t parse_decimal(const char *text, size_t n) noexcept nogil
# Marks the fields that the Connection field names as hop-by-hop (RFC 9110 section 7.6.1).
cdef void mark_hop_by_hop(Scan *scan) noexcept nogil
cdef bint has_token(const Field *field, const char *lower) noexcept nogil
# Whether the message's Transfer-Encoding, if it has one, is chunked and nothing else.
cdef bint plainly_chunked(const Scan *scan) noexcept nogil
