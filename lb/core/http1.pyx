"""HTTP/1.x parsing by llhttp, strict: see http1.pxd for the contract.

llhttp refuses on its own what could be smuggled (RFC 9112 sections 6.1 and 6.3): Content-Length beside
Transfer-Encoding, two lengths, chunk sizes that are not hexadecimal, a bare LF, obsolete line folding, spaces before a
colon. No lenient flag is set.
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset, strlen
from lb.core.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_reserve, tg_buffer_size,
    tg_buffer_tail,
)

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)

cdef extern from * nogil:
    """
    #include <llhttp.h>

    /* llhttp_status_name aborts the process on a number it does not know. */
    static const char *tg_status_name(int status) {
    #define TG_STATUS_CASE(number, name, text) case number: return #text;
        switch (status) { HTTP_STATUS_MAP(TG_STATUS_CASE) default: return NULL; }
    #undef TG_STATUS_CASE
    }
    """
    const char *tg_status_name(int status)

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
    enum:
        HTTP_REQUEST
        HTTP_RESPONSE
        HPE_OK
        HPE_PAUSED
        HPE_PAUSED_UPGRADE
        HPE_USER
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
    const char *llhttp_method_name(int method)
    const char *llhttp_errno_name(int error)

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    struct tm:
        pass
    time_t time(time_t *into)
    tm *gmtime_r(const time_t *when, tm *into)
    size_t strftime(char *into, size_t room, const char *form, const tm *parts)

cdef enum:
    METHODS = 35                      # llhttp's numbers from here on are not HTTP's (RTSP), but for:
    M_QUERY = 46
    M_PRI = 34                        # no method, but how HTTP/2 begins

cdef Scan SCAN
cdef llhttp_settings_t SETTINGS

# (length, name, id): few names per length, so that a comparison or two decides.
cdef struct Known:
    const char *name
    uint32_t length
    uint16_t id
    bint hop

cdef Known KNOWN[29]
cdef const char *NAMES[32]            # by id
cdef int KNOWN_BY_LENGTH[40]          # first entry of KNOWN with that length, -1 = none
cdef int KNOWN_COUNT = 0


cdef Scan *worker_scan() noexcept:
    return &SCAN


cdef bint same_name(const char *a, size_t n, const char *lower) noexcept nogil:
    return strlen(lower) == n and strncasecmp(a, lower, n) == 0


cdef const char *known_name(int id) noexcept nogil:
    return NAMES[id]


cdef inline bint same_token(const char *a, const char *lower, uint32_t n) noexcept nogil:
    """As `same_name` for names that a parser has checked: a byte of a token that differs from a lower-case letter, a
    digit or a hyphen in the bit 0x20 alone is that letter as a capital."""
    cdef uint64_t x = 0, y = 0, different
    cdef uint32_t s = 0, t = 0, i = 8
    if n >= 8:                                    # the first eight, the last eight, and those between
        memcpy(&x, a, 8)
        memcpy(&y, lower, 8)
        different = x ^ y
        memcpy(&x, a + n - 8, 8)
        memcpy(&y, lower + n - 8, 8)
        different |= x ^ y
        while i + 8 < n:
            memcpy(&x, a + i, 8)
            memcpy(&y, lower + i, 8)
            different |= x ^ y
            i += 8
        return different & <uint64_t>0xDFDFDFDFDFDFDFDF == 0
    if n >= 4:
        memcpy(&s, a, 4)
        memcpy(&t, lower, 4)
        different = s ^ t
        memcpy(&s, a + n - 4, 4)
        memcpy(&t, lower + n - 4, 4)
        return (different | (s ^ t)) & <uint64_t>0xDFDFDFDF == 0
    for i in range(n):
        if a[i] | 0x20 != lower[i]:
            return False
    return True


cdef inline void classify(Field *field) noexcept nogil:
    cdef int i
    field.id = H_OTHER
    field.hop = False
    if field.name_length >= 40:
        return
    i = KNOWN_BY_LENGTH[field.name_length]
    if i < 0:
        return
    while i < KNOWN_COUNT and KNOWN[i].length == field.name_length:
        if same_token(field.name, KNOWN[i].name, field.name_length):
            field.id = KNOWN[i].id
            field.hop = KNOWN[i].hop
            return
        i += 1


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


cdef inline void count_field(Scan *scan) noexcept nogil:
    cdef Field *field = &scan.fields[scan.field_count]
    classify(field)
    if field.id and scan.first[field.id] < 0:
        scan.first[field.id] = scan.field_count
    if field.id == H_HOST:
        scan.host_count += 1
    scan.field_count += 1


cdef int on_header_value_complete(llhttp_t *http) noexcept nogil:
    cdef Scan *scan = <Scan *>http.data
    cdef Field *field
    if scan.in_trailers:
        return keep_trailer(scan, b"", 0, 0)
    field = &scan.fields[scan.field_count]
    while field.value_length and field.value[field.value_length - 1] in (32, 9):
        field.value_length -= 1
    count_field(scan)
    if scan.field_count < MAX_FIELDS:
        scan.fields[scan.field_count].name_length = 0
        scan.fields[scan.field_count].value_length = 0
    return 0


cdef int on_headers_complete(llhttp_t *http) noexcept nogil:
    cdef Scan *scan = <Scan *>http.data
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


cdef void scan_begin(Scan *scan) noexcept nogil:
    scan.target_length = 0
    scan.reason_length = 0
    scan.field_count = 0
    scan.host_count = 0
    scan.fields[0].name_length = 0
    scan.fields[0].value_length = 0
    memset(scan.first, 0xff, sizeof(scan.first))


cdef int scan_field(Scan *scan, const char *name, size_t name_length, const char *value,
                    size_t value_length) noexcept nogil:
    cdef Field *field
    if scan.field_count >= scan.max_fields or scan.field_count >= MAX_FIELDS:
        return -1
    field = &scan.fields[scan.field_count]
    field.name = name
    field.name_length = <uint32_t>name_length
    field.value = value
    field.value_length = <uint32_t>value_length
    count_field(scan)
    return 0


cdef void classify_trailer(Field *field) noexcept nogil:
    classify(field)
    # RFC 9110 section 6.5.1: nothing that frames or routes the message may come behind it.
    if field.id in (H_HOST, H_CONTENT_LENGTH, H_CONTENT_TYPE, H_CONTENT_ENCODING, H_COOKIE, H_EXPECT,
                    H_X_FORWARDED_FOR, H_X_FORWARDED_HOST, H_X_FORWARDED_PROTO):
        field.hop = True


cdef int scan_trailers(Scan *scan, const char *lines, size_t n) noexcept nogil:
    cdef const char *end = lines + n
    cdef const char *stop
    cdef const char *colon
    cdef Field *field
    scan.trailer_count = 0
    while lines < end:
        stop = <const char *>memchr(lines, 13, <size_t>(end - lines))
        colon = <const char *>memchr(lines, 58, <size_t>(end - lines))
        if stop == NULL or colon == NULL or colon > stop or scan.trailer_count >= MAX_TRAILERS:
            return -1
        field = &scan.trailers[scan.trailer_count]
        field.name = lines
        field.name_length = <uint32_t>(colon - lines)
        field.value = colon + 2
        field.value_length = <uint32_t>(stop - colon - 2)
        classify_trailer(field)
        scan.trailer_count += 1
        lines = stop + 2
    return 0


cdef int append_trailers(tg_buffer *out, const Scan *scan) noexcept nogil:
    cdef int i
    cdef const Field *field
    for i in range(scan.trailer_count):
        field = &scan.trailers[i]
        if field.hop:
            continue
        if (tg_buffer_append(out, field.name, field.name_length) < 0 or tg_buffer_append(out, b": ", 2) < 0
                or tg_buffer_append(out, field.value, field.value_length) < 0
                or tg_buffer_append(out, b"\r\n", 2) < 0):
            return -1
    return 0


cdef int method_number(const char *name, size_t n) noexcept nogil:
    cdef int i
    cdef const char *known
    if n == 4 and memcmp(name, b"POST", 4) == 0:
        return 3
    if n == 3 and memcmp(name, b"GET", 3) == 0:
        return 1
    if n == 5 and memcmp(name, b"QUERY", 5) == 0:
        return M_QUERY
    for i in range(METHODS):
        known = llhttp_method_name(i)
        if strlen(known) == n and memcmp(known, name, n) == 0:
            return i if i != M_PRI else -1
    for i in range(<int>n):
        if not is_token_octet(<unsigned char>name[i]):
            return -1
    return M_OTHER if n else -1


cdef bint is_token_octet(unsigned char c) noexcept nogil:
    """tchar of RFC 9110 section 5.6.2."""
    return (48 <= c <= 57 or 65 <= (c & 0xDF) <= 90
            or (33 <= c <= 126 and memchr(b"!#$%&'*+-.^_`|~", c, 15) != NULL))


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
        return -1

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


cdef Parser new_request_parser():
    cdef Parser parser = Parser()
    llhttp_init(&parser.http, HTTP_REQUEST, &SETTINGS)
    return parser


cdef Parser new_response_parser():
    cdef Parser parser = Parser()
    llhttp_init(&parser.http, HTTP_RESPONSE, &SETTINGS)
    return parser


cdef const char *method_name(int method) noexcept:
    return llhttp_method_name(method)


cdef const char *method_text(const Scan *scan, int method, size_t *n) noexcept:
    cdef const char *name
    if method == M_OTHER:
        n[0] = scan.method_length
        return scan.method_text
    name = llhttp_method_name(method)
    n[0] = strlen(name)
    return name


cdef int append_text(tg_buffer *out, const char *text) noexcept nogil:
    return tg_buffer_append(out, text, strlen(text))


cdef int append_number(tg_buffer *out, uint64_t value) noexcept nogil:
    cdef char digits[20]
    cdef int i = 20
    while True:
        i -= 1
        digits[i] = <char>(48 + value % 10)
        value //= 10
        if value == 0:
            break
    return tg_buffer_append(out, digits + i, <size_t>(20 - i))


cdef int append_chunk_size(tg_buffer *out, uint64_t value) noexcept nogil:
    """The size line of a chunk (RFC 9112 section 7.1)."""
    cdef char digits[18]
    cdef const char *alphabet = "0123456789abcdef"
    cdef int i = 16
    digits[16] = 13
    digits[17] = 10
    while True:
        i -= 1
        digits[i] = alphabet[value & 15]
        value >>= 4
        if value == 0:
            break
    return tg_buffer_append(out, digits + i, <size_t>(18 - i))


cdef int append_fields(tg_buffer *out, const Scan *scan, uint64_t skip) noexcept nogil:
    """`skip` is a set of header ids (1 << id) left out besides the hop-by-hop ones."""
    cdef int i
    cdef const Field *field
    cdef size_t total = 0
    cdef char *at
    for i in range(scan.field_count):
        total += scan.fields[i].name_length + scan.fields[i].value_length + 4
    if tg_buffer_reserve(out, total) < 0:
        return -1
    at = tg_buffer_tail(out)
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if field.hop or (field.id and (skip >> field.id) & 1):
            continue
        memcpy(at, field.name, field.name_length)
        at += field.name_length
        at[0] = 58
        at[1] = 32
        at += 2
        if field.value_length:
            memcpy(at, field.value, field.value_length)
            at += field.value_length
        at[0] = 13
        at[1] = 10
        at += 2
    out.end = <size_t>(at - out.data)
    return 0

cdef inline bint token_at(const char *text, size_t n, size_t *start, size_t *end) noexcept nogil:
    """The next comma-separated element at or behind *start: False at the end."""
    cdef size_t i = start[0]
    while i < n and (text[i] == 32 or text[i] == 9 or text[i] == 44):
        i += 1
    if i >= n:
        return False
    start[0] = i
    while i < n and text[i] != 44:
        i += 1
    end[0] = i
    while end[0] > start[0] and (text[end[0] - 1] == 32 or text[end[0] - 1] == 9):
        end[0] -= 1
    return True


cdef bint has_token(const Field *field, const char *lower) noexcept nogil:
    cdef size_t start = 0, end = 0
    while token_at(field.value, field.value_length, &start, &end):
        if same_name(field.value + start, end - start, lower):
            return True
        start = end
    return False


cdef bint plainly_chunked(const Scan *scan) noexcept nogil:
    cdef int i, count = 0
    if scan.first[H_TRANSFER_ENCODING] < 0:
        return True
    for i in range(scan.first[H_TRANSFER_ENCODING], scan.field_count):
        if scan.fields[i].id == H_TRANSFER_ENCODING:
            count += 1
            if not same_name(scan.fields[i].value, scan.fields[i].value_length, b"chunked"):
                return False
    return count == 1


cdef void mark_hop_by_hop(Scan *scan) noexcept nogil:
    cdef int i, k
    cdef size_t start, end
    cdef Field *field
    if scan.first[H_CONNECTION] < 0:
        return
    for i in range(scan.first[H_CONNECTION], scan.field_count):
        field = &scan.fields[i]
        if field.id != H_CONNECTION:
            continue
        start = 0
        end = 0
        while token_at(field.value, field.value_length, &start, &end):
            # "close" and "keep-alive" name no field that is not hop-by-hop already.
            if not (same_name(field.value + start, end - start, b"close") or
                    same_name(field.value + start, end - start, b"keep-alive")):
                for k in range(scan.field_count):
                    if (scan.fields[k].name_length == end - start and scan.fields[k].id != H_HOST
                            and scan.fields[k].id != H_CONTENT_LENGTH
                            and strncasecmp(scan.fields[k].name, field.value + start, end - start) == 0):
                        scan.fields[k].hop = True
            start = end


cdef time_t date_second = 0
cdef char date_line[40]
cdef size_t date_length = 0


cdef int append_date(tg_buffer *out) noexcept:
    global date_second, date_length
    cdef time_t now = time(NULL)
    cdef tm parts
    if now != date_second:
        if gmtime_r(&now, &parts) == NULL:
            return -1
        date_length = strftime(date_line, sizeof(date_line), b"Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &parts)
        date_second = now
    return tg_buffer_append(out, date_line, date_length)


cdef const char *reason_phrase(int status) noexcept nogil:
    cdef const char *phrase = tg_status_name(status)
    if status == 200:
        return b"OK"
    if status == 400:
        return b"Bad Request"
    if status == 404:
        return b"Not Found"
    if status == 405:
        return b"Method Not Allowed"
    if status == 408:
        return b"Request Timeout"
    if status == 413:
        return b"Content Too Large"
    if status == 414:
        return b"URI Too Long"
    if status == 429:
        return b"Too Many Requests"
    if status == 431:
        return b"Request Header Fields Too Large"
    if status == 500:
        return b"Internal Server Error"
    if status == 501:
        return b"Not Implemented"
    if status == 502:
        return b"Bad Gateway"
    if status == 503:
        return b"Service Unavailable"
    if status == 504:
        return b"Gateway Timeout"
    if status == 505:
        return b"HTTP Version Not Supported"
    if phrase == NULL:
        return b"Unknown"
    return phrase


cdef int64_t parse_decimal(const char *text, size_t n) noexcept nogil:
    cdef int64_t value = 0
    cdef size_t i
    if n == 0 or n > 18:
        return -1
    for i in range(n):
        if text[i] < 48 or text[i] > 57:
            return -1
        value = value * 10 + (text[i] - 48)
    return value


cdef void know(const char *name, int id, bint hop) noexcept:
    global KNOWN_COUNT
    cdef uint32_t n = <uint32_t>strlen(name)
    KNOWN[KNOWN_COUNT].name = name
    NAMES[id] = name
    KNOWN[KNOWN_COUNT].length = n
    KNOWN[KNOWN_COUNT].id = <uint16_t>id
    KNOWN[KNOWN_COUNT].hop = hop
    if KNOWN_BY_LENGTH[n] < 0:
        KNOWN_BY_LENGTH[n] = KNOWN_COUNT
    KNOWN_COUNT += 1


cdef void set_up() noexcept:
    cdef llhttp_settings_s *settings = <llhttp_settings_s *>&SETTINGS
    memset(KNOWN_BY_LENGTH, 0xff, sizeof(KNOWN_BY_LENGTH))
    # In the order of their lengths.
    know(b"te", H_TE, True)
    know(b"via", H_VIA, False)
    know(b"host", H_HOST, False)
    know(b"cookie", H_COOKIE, False)
    know(b"expect", H_EXPECT, False)
    know(b"upgrade", H_UPGRADE, True)
    know(b"trailer", H_TRAILER, True)
    know(b"forwarded", H_FORWARDED, False)
    know(b"connection", H_CONNECTION, True)
    know(b"keep-alive", H_KEEP_ALIVE, True)
    know(b"tracestate", H_TRACESTATE, False)
    know(b"grpc-status", H_GRPC_STATUS, False)
    know(b"traceparent", H_TRACEPARENT, False)
    know(b"content-type", H_CONTENT_TYPE, False)
    know(b"grpc-timeout", H_GRPC_TIMEOUT, False)
    know(b"x-request-id", H_X_REQUEST_ID, False)
    know(b"cache-control", H_CACHE_CONTROL, False)
    know(b"content-length", H_CONTENT_LENGTH, False)
    know(b"http2-settings", H_HTTP2_SETTINGS, True)
    know(b"x-forwarded-for", H_X_FORWARDED_FOR, False)
    know(b"content-encoding", H_CONTENT_ENCODING, False)
    know(b"proxy-connection", H_PROXY_CONNECTION, True)
    know(b"x-forwarded-host", H_X_FORWARDED_HOST, False)
    know(b"x-forwarded-port", H_X_FORWARDED_PORT, False)
    know(b"transfer-encoding", H_TRANSFER_ENCODING, True)
    know(b"x-forwarded-proto", H_X_FORWARDED_PROTO, False)
    know(b"proxy-authenticate", H_PROXY_AUTHENTICATE, True)
    know(b"proxy-authorization", H_PROXY_AUTHORIZATION, True)
    know(b"inference-header-content-length", H_INFERENCE_LENGTH, False)
    llhttp_settings_init(&SETTINGS)
    settings.on_url = on_url
    settings.on_status = on_status
    settings.on_header_field = on_header_field
    settings.on_header_value = on_header_value
    settings.on_header_value_complete = on_header_value_complete
    settings.on_headers_complete = on_headers_complete
    settings.on_body = on_body
    settings.on_message_complete = on_message_complete
    SCAN.max_fields = MAX_FIELDS - 1


set_up()


def parse(data: bytes, response: bool = False, max_fields: int = 100):
    """Parses one message in one piece, for tests and tools.

    Returns (head fields or None, body bytes, complete, consumed); raises ValueError with llhttp's reason on a bad
    message.
    """
    cdef Parser parser = new_response_parser() if response else new_request_parser()
    cdef Scan *scan = worker_scan()
    cdef Py_ssize_t n, at = 0
    cdef int i
    fields = None
    body = []
    scan.max_fields = max_fields
    while True:
        n = parser.execute(scan, <const char *>data + at, <size_t>(len(data) - at))
        if n < 0:
            raise ValueError(parser.why.decode() if scan.error == SCAN_BAD else "too many header fields")
        if scan.head:
            fields = [
                (scan.fields[i].name[:scan.fields[i].name_length], scan.fields[i].value[:scan.fields[i].value_length])
                for i in range(scan.field_count)
            ]
        for i in range(scan.span_count):
            body.append((<char *>scan.spans[i].iov_base)[:scan.spans[i].iov_len])
        at += n
        if scan.complete or scan.span_count < MAX_SPANS:
            return fields, b"".join(body), bool(scan.complete), at
