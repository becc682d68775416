"""HTTP/1.x messages in both directions, parsed by llhttp. Bytes in, a `Scan` out: no I/O, no routes.

The head in a `Scan` is the same whatever HTTP it came by: HTTP/2 fills one in too (lb.core.http2_head).

One worker-wide `Scan` receives what one `execute` finds. A head is always parsed in one piece: when it is not
complete, the caller keeps its bytes and offers them again with more behind them, so that a scan's spans are plain
pointers and a connection needs no header table of its own.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from lb.core.buffer cimport tg_buffer
from lb.core.stream cimport iovec


cdef extern from "<llhttp.h>" nogil:
    ctypedef struct llhttp_settings_t:
        pass
    ctypedef struct llhttp_t:
        uint64_t content_length
        uint8_t type
        uint8_t method
        uint8_t http_major
        uint8_t http_minor
        uint16_t flags
        uint16_t status_code
        uint8_t upgrade
        void *data


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

cdef enum:
    # A method that llhttp has no number for: what HTTP/2 may send and HTTP/1.1 cannot. Fits a set of 64 bits.
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


cdef class Parser:
    """The parse state of one side of one connection: 100 bytes of llhttp."""
    cdef llhttp_t http
    cdef bint reading_body            # the head was complete: execute goes on where it stopped
    cdef bint headless                # responses: the request was HEAD
    cdef Trailers trailers
    cdef const char *why              # what was wrong, after an error

    # Begin a new message.
    cdef void reset(self) noexcept
    # Parses data; returns how many bytes were consumed, or -1 (scan.error, self.why). When `reading_body` is still
    # unset afterwards the head is incomplete, nothing was consumed, and all the bytes must be offered again with more.
    # Stops behind a complete message (scan.complete), and when scan.spans is full: call again then with the rest.
    cdef Py_ssize_t execute(self, Scan *scan, const char *data, size_t n) noexcept
    # The peer's end of file: 0 fine here (scan.complete is set when it ends a message), -1 inside of a message.
    cdef int finish(self, Scan *scan) noexcept
    cdef bint keep_alive(self) noexcept
    cdef Py_ssize_t consumed(self, Scan *scan, Py_ssize_t n) noexcept


cdef Scan *worker_scan() noexcept     # this process's Scan
# Empties the head of a scan; then `scan_field` adds field after field: 0, or -1 when there are too many.
cdef void scan_begin(Scan *scan) noexcept nogil
cdef int scan_field(Scan *scan, const char *name, size_t name_length, const char *value,
                    size_t value_length) noexcept nogil
# Takes a trailer section apart: field lines whose memory outlives the use of the scan. 0, or -1: too many.
cdef int scan_trailers(Scan *scan, const char *lines, size_t n) noexcept nogil
# Its id, and `hop` where a trailer section may not have it.
cdef void classify_trailer(Field *field) noexcept nogil
# "Name: value\r\n" of each trailer that is passed on. 0 or -1.
cdef int append_trailers(tg_buffer *out, const Scan *scan) noexcept nogil
# The name in lower case of a known field; it stays.
cdef const char *known_name(int id) noexcept nogil
# The number of a method: llhttp's, M_OTHER = it has none, -1 = no request may have it (RFC 9113 section 3.4), or not a
# token at all (RFC 9110 section 9.1).
cdef int method_number(const char *name, size_t n) noexcept nogil

cdef Parser new_request_parser()
cdef Parser new_response_parser()
cdef bint same_name(const char *a, size_t n, const char *lower) noexcept nogil
cdef int append_text(tg_buffer *out, const char *text) noexcept nogil
cdef int append_number(tg_buffer *out, uint64_t value) noexcept nogil
cdef int append_chunk_size(tg_buffer *out, uint64_t value) noexcept nogil
# "Name: value\r\n" of every field that is passed on. 0 or -1.
cdef int append_fields(tg_buffer *out, const Scan *scan, uint64_t skip) noexcept nogil
cdef const char *method_name(int method) noexcept        # not of M_OTHER
# The name of a request's method, which may be another than its scan has, and its length.
cdef const char *method_text(const Scan *scan, int method, size_t *n) noexcept
# A decimal number without sign: -1 when it is not one, or too large.
cdef int64_t parse_decimal(const char *text, size_t n) noexcept nogil
# Marks the fields that the Connection field names as hop-by-hop (RFC 9110 section 7.6.1).
cdef void mark_hop_by_hop(Scan *scan) noexcept nogil
cdef bint has_token(const Field *field, const char *lower) noexcept nogil
# Whether the message's Transfer-Encoding, if it has one, is chunked and nothing else.
cdef bint plainly_chunked(const Scan *scan) noexcept nogil
# The current "Date: …" line (RFC 9110 section 6.6.1), made once a second. `seconds` is the wall clock's.
cdef int append_date(tg_buffer *out) noexcept
cdef const char *reason_phrase(int status) noexcept nogil
