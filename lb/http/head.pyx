"""Fields of a head by their names, and what they say: see head.pxd for the contract."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy, memset, strlen

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)

cdef Scan SCAN

# (length, name, id): few names per length, so that a comparison or two decides.
cdef struct Known:
    const char *name
    uint32_t length
    uint16_t id
    bint hop

cdef Known KNOWN[30]
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


cdef void classify(Field *field) noexcept nogil:
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
    scan_next(scan)
    return 0


cdef void classify_trailer(Field *field) noexcept nogil:
    classify(field)
    # RFC 9110 section 6.5.1: nothing that frames or routes the message, or says whose it is, may come behind it.
    # Servers that merge trailers into the head would believe what was taken out of that.
    if (field.id in (H_HOST, H_CONTENT_LENGTH, H_CONTENT_TYPE, H_CONTENT_ENCODING, H_COOKIE, H_EXPECT, H_FORWARDED,
                     H_TRAILER, H_X_FORWARDED_FOR, H_X_FORWARDED_HOST, H_X_FORWARDED_PORT, H_X_FORWARDED_PROTO)
            or same_name(field.name, field.name_length, b"authorization")
            or same_name(field.name, field.name_length, b"x-forwarded-client-cert")):
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
    memset(KNOWN_BY_LENGTH, 0xff, sizeof(KNOWN_BY_LENGTH))
    # In the order of their lengths.
    know(b"te", H_TE, True)
    know(b"via", H_VIA, False)
    know(b"host", H_HOST, False)
    know(b"date", H_DATE, False)
    know(b"cookie", H_COOKIE, False)
    know(b"expect", H_EXPECT, False)
    know(b"upgrade", H_UPGRADE, True)
    know(b"trailer", H_TRAILER, False)
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
    SCAN.max_fields = MAX_FIELDS - 1


set_up()
