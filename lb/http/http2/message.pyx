"""The rules of messages: see message.pxd."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from lb.net.buffer cimport tg_buffer, tg_buffer_head, tg_buffer_size
from lb.http.http2.block cimport block_field, block_next
from lb.http.http2.nghttp2 cimport nghttp2_check_authority, nghttp2_nv

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)

cdef enum:
    # `seen`
    METHOD = 1
    SCHEME = 2
    AUTHORITY = 4
    PATH = 8
    PROTOCOL = 16
    STATUS = 32
    HOST = 64
    LENGTH = 128
    LENGTH_DIGITS = 18                # fit into an int64_t

cdef uint8_t NAME[256]                # octets that a field's name may have: tokens of RFC 9110 without upper case
cdef uint8_t TOKEN[256]
cdef uint64_t EACH = 0x0101010101010101U
cdef uint64_t TOP = 0x8080808080808080U


def _fill() -> None:
    cdef int octet
    for octet in b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz":
        NAME[octet] = 1
        TOKEN[octet] = 1
    for octet in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        TOKEN[octet] = 1


_fill()


cdef inline bint all_of(const uint8_t *allowed, const char *bytes, size_t size) noexcept:
    cdef size_t i
    for i in range(size):
        if not allowed[<uint8_t>bytes[i]]:
            return False
    return True


cdef inline uint64_t odd(uint64_t word, uint64_t below) noexcept:
    """The top bit of each octet (and perhaps of some above it) that is less than `below` or DEL; 0 = there is none."""
    cdef uint64_t delete = word ^ EACH * 0x7F
    return ((word - EACH * below) & ~word | (delete - EACH) & ~delete) & TOP


cdef inline bint visible(const char *bytes, size_t size, bint blanks) noexcept:
    """Whether all octets are visible or above 127 (RFC 9110 section 5.5); with `blanks`, space and tab are, too."""
    cdef uint64_t word
    cdef size_t i
    while size >= 8:
        memcpy(&word, bytes, 8)
        if odd(word, 0x20 if blanks else 0x21):
            for i in range(8):
                if not (visible_octet(<uint8_t>bytes[i]) or blanks and (bytes[i] == 32 or bytes[i] == 9)):
                    return False
        bytes += 8
        size -= 8
    for i in range(size):
        if not (visible_octet(<uint8_t>bytes[i]) or blanks and (bytes[i] == 32 or bytes[i] == 9)):
            return False
    return True


cdef inline bint visible_octet(uint8_t octet) noexcept:
    return octet > 32 and octet != 127


cdef inline bint is_blank(char octet) noexcept:
    return octet == 32 or octet == 9


cdef inline bint is_name(const char *name, size_t size, const char *other, size_t n) noexcept:
    return size == n and memcmp(name, other, n) == 0


cdef inline bint same(const char *value, size_t size, const char *other, size_t n) noexcept:
    return size == n and strncasecmp(value, other, n) == 0


cdef inline int64_t decimal(const char *digits, size_t size) noexcept:
    """-1: it is none, or too large."""
    cdef int64_t number = 0
    cdef size_t i
    if size == 0 or size > LENGTH_DIGITS:
        return -1
    for i in range(size):
        if not c"0" <= digits[i] <= c"9":
            return -1
        number = number * 10 + (digits[i] - 48)
    return number


cdef inline bint once(h2_section *section, uint32_t field) noexcept:
    if section.seen & field:
        return False
    section.seen |= field
    return True


cdef bint authority(const char *value, size_t size) noexcept:
    return size and nghttp2_check_authority(<const uint8_t *>value, size) != 0


cdef bint scheme(const char *value, size_t size) noexcept:
    """RFC 3986 section 3.1."""
    cdef size_t i
    if size == 0 or not (c"a" <= value[0] | 32 <= c"z"):
        return False
    for i in range(1, size):
        if not (c"a" <= value[i] | 32 <= c"z" or c"0" <= value[i] <= c"9" or value[i] in b"+-."):
            return False
    return True


cdef bint request_pseudo(h2_section *section, bint extended, const char *name, size_t size, const char *value,
                         size_t value_size) noexcept:
    if is_name(name, size, b":method", 7):
        section.connect = is_name(value, value_size, b"CONNECT", 7)
        section.options = is_name(value, value_size, b"OPTIONS", 7)
        return once(section, METHOD) and value_size and all_of(TOKEN, value, value_size)
    if is_name(name, size, b":scheme", 7):
        section.web_scheme = same(value, value_size, b"http", 4) or same(value, value_size, b"https", 5)
        return once(section, SCHEME) and (section.web_scheme or scheme(value, value_size))
    if is_name(name, size, b":path", 5):
        if value_size:
            section.path_is_target = value[0] == c"/"
            section.path_is_star = value_size == 1 and value[0] == c"*"
        return once(section, PATH) and value_size and visible(value, value_size, False)
    if is_name(name, size, b":authority", 10):
        return once(section, AUTHORITY) and authority(value, value_size)
    if is_name(name, size, b":protocol", 9):
        return extended and once(section, PROTOCOL) and value_size and visible(value, value_size, True)
    return False


cdef bint pseudo(h2_section *section, const h2_message *message, bint extended, const char *name, size_t size,
                 const char *value, size_t value_size) noexcept:
    if section.regular or section.trailers:
        return False
    if not message.response:
        return request_pseudo(section, extended, name, size, value, value_size)
    if not is_name(name, size, b":status", 7) or value_size != 3 or not once(section, STATUS):
        return False
    section.status = <int>decimal(value, value_size)
    # RFC 9113 section 8.6: there is no 101 in HTTP/2.
    return section.status >= 100 and section.status != 101


cdef bint content_length(h2_section *section, const h2_message *message, const char *value, size_t size) noexcept:
    if section.trailers:
        return True                       # says nothing there
    section.length = decimal(value, size)
    if section.length < 0 or not once(section, LENGTH):
        return False
    if not message.response:
        return True
    # RFC 9110 section 8.6: not with these, though servers say 0.
    return not (section.status < 200 or section.status == 204) or (section.length == 0 and section.status == 204)


cdef bint section_field(h2_section *section, const h2_message *message, bint extended, const char *name, size_t size,
                        const char *value, size_t value_size) noexcept:
    if size == 0:
        return False
    if name[0] == c":":
        return pseudo(section, message, extended, name, size, value, value_size)
    section.regular = True
    if not all_of(NAME, name, size) or not visible(value, value_size, True):
        return False
    if value_size and (is_blank(value[0]) or is_blank(value[value_size - 1])):
        return False                          # section 8.2.1
    # Section 8.2.2: what belongs to a connection does not exist here.
    if size == 2:
        return not is_name(name, 2, b"te", 2) or same(value, value_size, b"trailers", 8)
    if size == 4:
        if message.response or section.trailers or not is_name(name, 4, b"host", 4):
            return True
        return once(section, HOST) and authority(value, value_size)
    if size == 7:
        return not is_name(name, 7, b"upgrade", 7)
    if size == 10:
        return not is_name(name, 10, b"connection", 10) and not is_name(name, 10, b"keep-alive", 10)
    if size == 14:
        return not is_name(name, 14, b"content-length", 14) or content_length(section, message, value, value_size)
    if size == 16:
        return not is_name(name, 16, b"proxy-connection", 16)
    if size == 17:
        return not is_name(name, 17, b"transfer-encoding", 17)
    return True


cdef bint request_end(h2_section *section, h2_message *message) noexcept:
    cdef uint32_t seen = section.seen
    message.length = section.length
    if section.connect and not seen & PROTOCOL:
        message.length = -1
        return seen & AUTHORITY and not seen & (SCHEME | PATH)
    if seen & (METHOD | SCHEME | PATH) != METHOD | SCHEME | PATH or not seen & (AUTHORITY | HOST):
        return False
    if seen & PROTOCOL and not (section.connect and seen & AUTHORITY):
        return False
    return not section.web_scheme or section.path_is_target or (section.options and section.path_is_star)


cdef bint response_end(h2_section *section, h2_message *message, bint last) noexcept:
    if not section.seen & STATUS:
        return False
    if section.status < 200:
        return not last
    message.begun = True
    message.no_content = message.head_request or section.status == 204 or section.status == 304
    if message.connect_request and section.status < 300:
        message.length = -1
    else:
        message.length = section.length
    return True


cdef void message_begin(h2_message *message, bint response) noexcept:
    message.response = response
    message.head_request = False
    message.connect_request = False
    message.begun = False
    message.no_content = False
    message.length = -1
    message.received = 0


cdef void message_note_method(h2_message *message, const nghttp2_nv *fields, size_t count,
                              const tg_buffer *block) noexcept:
    cdef const char *at
    cdef const char *end
    cdef block_field field
    cdef size_t i
    field.value = NULL
    field.value_size = 0
    for i in range(count):
        if is_name(<const char *>fields[i].name, fields[i].namelen, b":method", 7):
            field.value = <const char *>fields[i].value
            field.value_size = <uint32_t>fields[i].valuelen
            break
    if block != NULL:
        at = tg_buffer_head(block)
        end = at + tg_buffer_size(block)
        while not field.value_size and block_next(&at, end, &field):
            if not is_name(field.name, field.name_size, b":method", 7):
                field.value_size = 0
    message.head_request = is_name(field.value, field.value_size, b"HEAD", 4)
    message.connect_request = is_name(field.value, field.value_size, b"CONNECT", 7)


cdef void section_begin(h2_section *section, const h2_message *message) noexcept:
    section.trailers = message.begun
    section.regular = False
    section.seen = 0
    section.status = 0
    section.connect = False
    section.options = False
    section.path_is_target = False
    section.path_is_star = False
    section.web_scheme = False
    section.length = -1


cdef bint section_end(h2_section *section, h2_message *message, bint last) noexcept:
    if section.trailers:
        return last
    if message.response:
        return response_end(section, message, last)
    message.begun = True
    return request_end(section, message)


cdef bint message_body(h2_message *message, size_t size) noexcept:
    if not message.begun or (size and message.no_content):
        return False
    message.received += size
    return message.length < 0 or message.received <= <uint64_t>message.length


cdef bint message_end(const h2_message *message) noexcept:
    if not message.begun:
        return False
    return message.no_content or message.length < 0 or message.received == <uint64_t>message.length
