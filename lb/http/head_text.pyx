"""Heads as bytes: see head_text.pxd for the contract."""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec
from posix.types cimport time_t
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_reserve, tg_buffer_tail
from lb.http.head cimport Field, Scan

cdef extern from * nogil:
    """
    #include <llhttp.h>

    /* The reason phrase of RFC 9110 for a status, or NULL: llhttp's names, which are written NOT_FOUND, but for those
       that are not. llhttp_status_name aborts the process on a number it does not know. The text lasts until the next
       call. */
    static const char *tg_reason_phrase(int status) {
        static char phrase[40];
        const char *name = NULL;
        size_t i;
        switch (status) {
        case 200: return "OK";
        case 203: return "Non-Authoritative Information";
        case 207: return "Multi-Status";
        case 226: return "IM Used";
        case 413: return "Content Too Large";
        case 414: return "URI Too Long";
        case 418: return "I'm a Teapot";
        case 422: return "Unprocessable Content";
        case 505: return "HTTP Version Not Supported";
        default: break;
        }
        switch (status) {
    #define TG_STATUS_CASE(number, symbol, text) case number: name = #text; break;
        HTTP_STATUS_MAP(TG_STATUS_CASE)
    #undef TG_STATUS_CASE
        default: return NULL;
        }
        for (i = 0; name[i] && i + 1 < sizeof(phrase); i++) {
            int within = i > 0 && name[i - 1] != '_' && name[i] >= 'A' && name[i] <= 'Z';
            phrase[i] = name[i] == '_' ? ' ' : within ? (char)(name[i] | 32) : name[i];
        }
        phrase[i] = 0;
        return phrase;
    }
    """
    const char *tg_reason_phrase(int status)

cdef enum:
    DATE_NAME = 6                     # bytes of "Date: "
    DATE_AROUND = 8                   # and of the line's end
    SECOND = 1_000_000_000

cdef extern from "<time.h>" nogil:
    struct tm:
        pass
    tm *gmtime_r(const time_t *when, tm *into)
    size_t strftime(char *into, size_t room, const char *form, const tm *parts)


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


cdef uint64_t date_until = 0          # of the monotonic clock: what the line says is over
cdef char date_line[40]
cdef size_t date_length = 0


cdef int refresh_date(uint64_t now) noexcept:
    global date_until, date_length
    cdef timespec wall
    cdef tm parts
    if now < date_until:
        return 0
    if clock_gettime(CLOCK_REALTIME, &wall) != 0 or gmtime_r(&wall.tv_sec, &parts) == NULL:
        return -1
    date_length = strftime(date_line, sizeof(date_line), b"Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &parts)
    date_until = now + <uint64_t>(SECOND - wall.tv_nsec)
    return 0


cdef int append_date(tg_buffer *out, uint64_t now) noexcept:
    if refresh_date(now) < 0:
        return -1
    return tg_buffer_append(out, date_line, date_length)


cdef const char *date_text(uint64_t now, size_t *n) noexcept:
    n[0] = date_length - DATE_AROUND if refresh_date(now) == 0 and date_length else 0
    return date_line + DATE_NAME


cdef const char *reason_phrase(int status) noexcept nogil:
    cdef const char *phrase = tg_reason_phrase(status)
    if phrase == NULL:
        return b"Unknown"
    return phrase
