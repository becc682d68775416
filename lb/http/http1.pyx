"""HTTP/1.x parsing by llhttp, strict: see http1.pxd for the contract.

llhttp refuses on its own what could be smuggled (RFC 9112 sections 6.1 and 6.3): Content-Length beside
Transfer-Encoding, two lengths, chunk sizes that are not hexadecimal, a bare LF, obsolete line folding, spaces before a
colon. No lenient flag is set.

A request's method is the one thing that llhttp takes from a list, where RFC 9110 section 9.1 allows any token. A head
that it refuses for its method is therefore offered once more, its method said to be POST, of which the rest of the
parser makes nothing special. So is one whose minor version llhttp does not know: HTTP/1.2 to 1.9 are answered, and
taken, as the HTTP/1.1 that they have to be compatible with (RFC 9110 section 2.5).
"""

from libc.stdint cimport uint32_t
from libc.string cimport memchr, memcmp
from lb.net.buffer cimport tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.http.head cimport (
    M_OTHER, MAX_FIELDS, MAX_SPANS, MAX_TRAILERS, SCAN_BAD, SCAN_OK, SCAN_TOO_MANY_FIELDS, TRAILER_BYTES, Field, Scan,
    Trailers, scan_begin, scan_next, scan_trailers,
)
from lb.http.methods cimport is_token, method_number

cdef extern from "<llhttp.h>" nogil:
    ctypedef int (*llhttp_data_cb)(llhttp_t *, const char *, size_t) noexcept nogil
    ctypedef int (*llhttp_cb)(llhttp_t *) noexcept nogil
    struct llhttp_settings_s:
        llhttp_data_cb on_url
        llhttp_data_cb on_status
        llhttp_data_cb on_header_field
        llhttp_data_cb on_header_value
        llhttp_data_cb on_body
        llhttp_cb on_headers_complete
        llhttp_cb on_message_complete
        llhttp_cb on_header_value_complete
        llhttp_cb on_chunk_header
    enum:
        HTTP_REQUEST
        HTTP_RESPONSE
        HPE_OK
        HPE_PAUSED
        HPE_PAUSED_UPGRADE
        HPE_USER
        HPE_INVALID_CONSTANT
        HPE_INVALID_METHOD
        HPE_INVALID_VERSION
        HPE_CB_HEADERS_COMPLETE
        HPE_CB_CHUNK_HEADER
        F_CHUNKED
        F_CONTENT_LENGTH
        F_TRANSFER_ENCODING
    void llhttp_init(llhttp_t *parser, int kind, const llhttp_settings_t *settings)
    void llhttp_reset(llhttp_t *parser)
    void llhttp_settings_init(llhttp_settings_t *settings)
    int llhttp_execute(llhttp_t *parser, const char *data, size_t n)
    int llhttp_finish(llhttp_t *parser)
    int llhttp_should_keep_alive(const llhttp_t *parser)
    void llhttp_resume(llhttp_t *parser)
    void llhttp_resume_after_upgrade(llhttp_t *parser)
    const char *llhttp_get_error_reason(const llhttp_t *parser)
    const char *llhttp_get_error_pos(const llhttp_t *parser)
    const char *llhttp_errno_name(int error)

cdef enum:
    NOT_HTTP = -1                                     # of a callback
    CHUNK_BITS = 60                                   # of a chunk's size: fifteen hexadecimal digits
    VERSION_SIZE = 8                                  # of "HTTP/1.1"

cdef const char *EXPECTED = b"Expected HTTP/"
cdef const char *BAD_STATUS = b"Invalid status code"
cdef const char *CHUNK = b"Chunk size overflow"
cdef const char *TOO_MUCH = b"Too many or too large fields"
cdef llhttp_settings_t SETTINGS


cdef int on_url(llhttp_t *http, const char *at, size_t n) noexcept nogil:
    cdef Scan *scan = <Scan *>http.data
    if scan.target_length == 0:
        scan.target = at
    scan.target_length += <uint32_t>n
    return 0


cdef int on_status(llhttp_t *http, const char *at, size_t n) noexcept nogil:
    cdef Scan *scan = <Scan *>http.data
    if scan.reason_length == 0:
        scan.reason = at
    scan.reason_length += <uint32_t>n
    return 0


cdef int keep_trailer(Scan *scan, const char *at, size_t n, int state) noexcept nogil:
    """A piece of a trailer's name (state 1) or value (2); state 0 ends the line."""
    cdef Trailers *trailers = scan.lines
    if trailers.count >= MAX_TRAILERS or tg_buffer_size(&trailers.lines) + n + 4 > TRAILER_BYTES:
        scan.error = SCAN_TOO_MANY_FIELDS
        return HPE_USER
    if state != 1 and trailers.state == 1 and tg_buffer_append(&trailers.lines, b": ", 2) < 0:
        return HPE_USER
    trailers.state = state
    if tg_buffer_append(&trailers.lines, at, n) < 0:
        return HPE_USER
    if state == 0:
        trailers.count += 1
        while (trailers.lines.data[trailers.lines.end - 1] == 32 or trailers.lines.data[trailers.lines.end - 1] == 9) \
                and trailers.lines.data[trailers.lines.end - 2] != 58:
            trailers.lines.end -= 1
        if tg_buffer_append(&trailers.lines, b"\r\n", 2) < 0:
            return HPE_USER
    return 0


cdef int on_header_field(llhttp_t *http, const char *at, size_t n) noexcept nogil:
    cdef Scan *scan = <Scan *>http.data
    cdef Field *field
    if scan.in_trailers:
        return keep_trailer(scan, at, n, 1)
    if scan.field_count >= scan.max_fields or scan.field_count >= MAX_FIELDS:
        scan.error = SCAN_TOO_MANY_FIELDS
        return HPE_USER
    field = &scan.fields[scan.field_count]
    if field.name_length == 0:
        field.name = at
    field.name_length += <uint32_t>n
    return 0


cdef int on_header_value(llhttp_t *http, const char *at, size_t n) noexcept nogil:
    cdef Scan *scan = <Scan *>http.data
    cdef Field *field
    if scan.in_trailers:
        return keep_trailer(scan, at, n, 2)
    field = &scan.fields[scan.field_count]
    if field.value_length == 0:
        field.value = at
    field.value_length += <uint32_t>n
    return 0


cdef int on_header_value_complete(llhttp_t *http) noexcept nogil:
    cdef Scan *scan = <Scan *>http.data
    cdef Field *field
    if scan.in_trailers:
        return keep_trailer(scan, b"", 0, 0)
    field = &scan.fields[scan.field_count]
    while field.value_length and field.value[field.value_length - 1] in (32, 9):
        field.value_length -= 1
    scan_next(scan)
    if scan.field_count < MAX_FIELDS:
        scan.fields[scan.field_count].name_length = 0
        scan.fields[scan.field_count].value_length = 0
    return 0


cdef int on_headers_complete(llhttp_t *http) noexcept nogil:
    cdef Scan *scan = <Scan *>http.data
    cdef const char *protocol
    if http.type == HTTP_REQUEST and http.http_major:
        protocol = scan.target + scan.target_length
        while protocol[0] == 32:
            protocol += 1
        if protocol[0] != c"H":
            return NOT_HTTP                           # RTSP or ICE, which llhttp parses as well
    if http.type == HTTP_RESPONSE and http.status_code < 100:
        return NOT_HTTP                               # RFC 9110 section 15
    scan.head = True
    scan.in_trailers = True
    scan.version = http.http_major * 10 + http.http_minor
    scan.method = http.method
    scan.status = http.status_code
    scan.has_length = (http.flags & F_CONTENT_LENGTH) != 0
    scan.chunked = (http.flags & F_CHUNKED) != 0
    scan.content_length = http.content_length if scan.has_length else 0
    scan.websocket = False
    if http.type == HTTP_RESPONSE and http.status_code < 200:
        return 1                          # RFC 9110 section 15.2: no body, whatever its fields say
    return 1 if scan.skip_body else 0


cdef int on_chunk_header(llhttp_t *http) noexcept nogil:
    # A size of sixteen digits is near where parsers of 64 bits wrap around, each at another place.
    return NOT_HTTP if http.content_length >> CHUNK_BITS else 0


cdef int on_body(llhttp_t *http, const char *at, size_t n) noexcept nogil:
    cdef Scan *scan = <Scan *>http.data
    scan.spans[scan.span_count].iov_base = <void *>at
    scan.spans[scan.span_count].iov_len = n
    scan.span_count += 1
    scan.body_bytes += n
    return HPE_PAUSED if scan.span_count == MAX_SPANS else 0


cdef int on_message_complete(llhttp_t *http) noexcept nogil:
    (<Scan *>http.data).complete = True
    return HPE_PAUSED


cdef const char *later_version(const char *data, size_t n, bint request) noexcept nogil:
    """Where the first line says HTTP/1.2 to 1.9; NULL: it does not."""
    cdef const char *line = <const char *>memchr(data, 13, n)
    cdef const char *at = data
    if request:
        if line == NULL or line - data < VERSION_SIZE + 1:
            return NULL
        at = line - VERSION_SIZE
        if (at - 1)[0] != 32:
            return NULL
    elif n <= VERSION_SIZE or data[VERSION_SIZE] != 32:
        return NULL
    return at if memcmp(at, b"HTTP/1.", 7) == 0 and c"2" <= at[7] <= c"9" else NULL


cdef class Parser:

    def __dealloc__(self):
        tg_buffer_free(&self.trailers.lines)

    cdef void reset(self) noexcept:
        llhttp_reset(&self.http)
        self.reading_body = False
        self.trailers.count = 0
        self.trailers.state = 0
        tg_buffer_free(&self.trailers.lines)

    cdef Py_ssize_t execute(self, Scan *scan, const char *data, size_t n) noexcept:
        cdef int error
        scan.head = False
        scan.complete = False
        scan.span_count = 0
        scan.body_bytes = 0
        scan.error = SCAN_OK
        scan.in_trailers = self.reading_body
        scan.skip_body = self.headless
        scan.trailer_count = 0
        scan.lines = &self.trailers
        if not self.reading_body:
            scan_begin(scan)
        self.http.data = scan
        error = llhttp_execute(&self.http, data, n)
        if (not self.reading_body and not scan.head
                and (error == HPE_INVALID_METHOD or error == HPE_INVALID_CONSTANT or error == HPE_INVALID_VERSION)):
            error = self.execute_other(scan, data, n)
        if error == HPE_OK:
            return self.consumed(scan, <Py_ssize_t>n)
        if error == HPE_PAUSED:
            n = <size_t>(llhttp_get_error_pos(&self.http) - data)
            llhttp_resume(&self.http)
            return self.consumed(scan, <Py_ssize_t>n)
        if error == HPE_PAUSED_UPGRADE:
            # A CONNECT or an Upgrade: the caller decides by the head; what follows is not HTTP.
            n = <size_t>(llhttp_get_error_pos(&self.http) - data)
            llhttp_resume_after_upgrade(&self.http)
            return self.consumed(scan, <Py_ssize_t>n)
        if scan.error == SCAN_OK:
            scan.error = SCAN_BAD
        self.why = llhttp_get_error_reason(&self.http)
        if error == HPE_CB_HEADERS_COMPLETE:
            self.why = EXPECTED if self.http.type == HTTP_REQUEST else BAD_STATUS
        elif error == HPE_CB_CHUNK_HEADER:
            self.why = CHUNK
        elif self.why == NULL:            # llhttp has none when a callback for a piece of text refuses
            self.why = TOO_MUCH
        return -1

    cdef int execute_other(self, Scan *scan, const char *data, size_t n) noexcept:
        """A head with a method or a version that llhttp does not know, offered again with one that it does. Of RTSP's
        methods an error's position tells nothing else. What the second attempt gave, or HPE_INVALID_METHOD or
        HPE_INVALID_VERSION: there is none."""
        cdef const char *version
        cdef const char *stop
        cdef const char *end = NULL
        cdef size_t method = 0
        cdef int error = HPE_OK
        cdef bint other = False
        while n and (data[0] == 13 or data[0] == 10):      # RFC 9112 section 2.2: as llhttp does
            data += 1
            n -= 1
        stop = data + n
        if self.http.type == HTTP_REQUEST:
            end = <const char *>memchr(data, 32, n)
            method = n if end == NULL else <size_t>(end - data)
            if not is_token(data, method):
                return HPE_INVALID_METHOD
            other = end == NULL or method_number(data, method) == M_OTHER
        version = later_version(data, n, self.http.type == HTTP_REQUEST)
        if not other and version == NULL:
            return HPE_INVALID_METHOD if self.http.type == HTTP_REQUEST else HPE_INVALID_VERSION
        llhttp_reset(&self.http)
        if other and end == NULL:
            return HPE_OK                                  # not all of it is there
        scan_begin(scan)
        if other:
            error = llhttp_execute(&self.http, b"POST", 4)
        else:
            end = data
        if error == HPE_OK and version != NULL:
            error = llhttp_execute(&self.http, end, <size_t>(version - end))
            if error == HPE_OK:
                error = llhttp_execute(&self.http, b"HTTP/1.1", VERSION_SIZE)
            end = version + VERSION_SIZE
        if error == HPE_OK:
            error = llhttp_execute(&self.http, end, <size_t>(stop - end))
        if scan.head and other:
            scan.method = M_OTHER
            scan.method_text = data
            scan.method_length = <uint32_t>method
        return error

    cdef Py_ssize_t consumed(self, Scan *scan, Py_ssize_t n) noexcept:
        if scan.head:
            self.reading_body = True
        elif not self.reading_body:
            llhttp_reset(&self.http)      # to be offered again in one piece
            return 0
        if scan.complete:
            self.reading_body = False
            if self.trailers.count:
                scan_trailers(scan, tg_buffer_head(&self.trailers.lines), tg_buffer_size(&self.trailers.lines))
        return n

    cdef int finish(self, Scan *scan) noexcept:
        cdef int error
        scan.head = False
        scan.complete = False
        scan.span_count = 0
        scan.body_bytes = 0
        scan.trailer_count = 0
        scan.lines = &self.trailers
        if not self.reading_body:
            return 0
        self.http.data = scan
        error = llhttp_finish(&self.http)
        if error != HPE_OK and error != HPE_PAUSED:
            self.why = llhttp_get_error_reason(&self.http)
            return -1
        self.reading_body = False
        return 0

    cdef bint keep_alive(self) noexcept:
        return llhttp_should_keep_alive(&self.http)

    cdef bint has_length(self) noexcept:
        return self.reading_body and self.http.flags & F_CONTENT_LENGTH != 0


cdef Parser new_request_parser():
    cdef Parser parser = Parser()
    llhttp_init(&parser.http, HTTP_REQUEST, &SETTINGS)
    return parser


cdef Parser new_response_parser():
    cdef Parser parser = Parser()
    llhttp_init(&parser.http, HTTP_RESPONSE, &SETTINGS)
    return parser


cdef void set_up() noexcept:
    cdef llhttp_settings_s *settings = <llhttp_settings_s *>&SETTINGS
    llhttp_settings_init(&SETTINGS)
    settings.on_url = on_url
    settings.on_status = on_status
    settings.on_header_field = on_header_field
    settings.on_header_value = on_header_value
    settings.on_header_value_complete = on_header_value_complete
    settings.on_headers_complete = on_headers_complete
    settings.on_chunk_header = on_chunk_header
    settings.on_body = on_body
    settings.on_message_complete = on_message_complete


set_up()
