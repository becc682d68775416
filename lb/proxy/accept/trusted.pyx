"""The proxies whose word about the client is taken: see trusted.pxd.

X-Forwarded-For grows to the right: each proxy adds whom it saw. So it is read from the right, past the trusted ones,
up to the first that is not; everything left of that is the client's own word. An element that is no address ends the
search: what a trusted proxy wrote there, on purpose or not, hides the rest.
"""

import ipaddress

cimport cython
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcmp, memcpy, memset, strlen
from lb.http.head cimport H_X_FORWARDED_FOR, Field, Scan

cdef extern from "<arpa/inet.h>" nogil:
    enum:
        AF_INET
        AF_INET6
    int inet_pton(int family, const char *text, void *into)
    const char *inet_ntop(int family, const void *address, char *text, unsigned size)

cdef enum:
    TEXT = 46                         # INET6_ADDRSTRLEN


cdef bint is_port(const char *text, size_t n) noexcept nogil:
    cdef unsigned int value = 0
    cdef size_t i
    for i in range(n):
        if not 48 <= text[i] <= 57:
            return False
        value = value * 10 + <unsigned int>(text[i] - 48)
        if value > 65535:
            return False
    return n > 0


cdef bint read_address(const char *text, size_t n, unsigned char *into) noexcept nogil:
    """An address, with or without brackets and port, to 16 bytes. False: it is none."""
    cdef char copy[TEXT]
    cdef const char *colon
    cdef const char *end = text + n
    if n and text[0] == 91:                       # [v6] or [v6]:port
        text += 1
        n -= 1
        colon = <const char *>memchr(text, 93, n)
        if colon == NULL:
            return False
        if colon + 1 != end and not (colon[1] == 58 and is_port(colon + 2, <size_t>(end - colon - 2))):
            return False
        n = <size_t>(colon - text)
    else:
        colon = <const char *>memchr(text, 58, n)
        if colon != NULL and memchr(colon + 1, 58, n - <size_t>(colon + 1 - text)) == NULL:
            if not is_port(colon + 1, <size_t>(end - colon - 1)):
                return False
            n = <size_t>(colon - text)            # v4:port
    if n == 0 or n >= TEXT:
        return False
    memcpy(copy, text, n)
    copy[n] = 0
    if inet_pton(AF_INET, copy, into + 12) == 1:
        memset(into, 0, 10)
        into[10] = 0xff
        into[11] = 0xff
        return True
    return inet_pton(AF_INET6, copy, into) == 1


cdef size_t write_address(const unsigned char *address, char *into) noexcept nogil:
    """Its canonical text, IPv4 in dotted form: the length, into 46 bytes without NUL."""
    cdef char text[TEXT]
    cdef bint v4 = address[10] == 0xff and address[11] == 0xff
    cdef int i
    cdef size_t n
    for i in range(10):
        v4 = v4 and address[i] == 0
    if inet_ntop(AF_INET if v4 else AF_INET6, address + 12 if v4 else address, text, sizeof(text)) == NULL:
        return 0
    n = strlen(text)
    memcpy(into, text, n)
    return n


cdef bint inside(const tg_network *network, const unsigned char *address) noexcept nogil:
    cdef int whole = network.bits // 8, rest = network.bits % 8
    if memcmp(network.address, address, <size_t>whole):
        return False
    return rest == 0 or (network.address[whole] ^ address[whole]) >> (8 - rest) == 0


@cython.final
cdef class TrustedProxies:
    """`networks` are CIDR texts. Raises ValueError for one that is none, MemoryError."""

    def __init__(self, networks):
        cdef int i
        cdef bytes packed
        if self.networks != NULL:
            raise RuntimeError("TrustedProxies are made once")
        parsed = [ipaddress.ip_network(text) for text in networks]
        self.networks = <tg_network *>calloc(len(parsed) + 1, sizeof(tg_network))
        if self.networks == NULL:
            raise MemoryError
        for i, network in enumerate(parsed):
            packed = network.network_address.packed
            if network.version == 4:
                packed = bytes(10) + b"\xff\xff" + packed
            memcpy(self.networks[i].address, <const char *>packed, 16)
            self.networks[i].bits = network.prefixlen + (96 if network.version == 4 else 0)
        self.count = len(parsed)

    def __dealloc__(self):
        free(self.networks)

    cdef bint contains(self, const char *text, size_t n) noexcept nogil:
        cdef unsigned char address[16]
        if self.count == 0:
            return False
        if n == 0:
            return True
        return read_address(text, n, address) and self.holds(address)

    cdef bint holds(self, const unsigned char *address) noexcept nogil:
        cdef int i
        for i in range(self.count):
            if inside(&self.networks[i], address):
                return True
        return False

    cdef size_t client_of(self, const Scan *scan, char *into) noexcept nogil:
        cdef unsigned char address[16]
        cdef unsigned char found[16]
        cdef bint any_found = False
        cdef const Field *field
        cdef const char *text
        cdef size_t start, end, first, last
        cdef int i
        for i in range(scan.field_count - 1, -1, -1):
            field = &scan.fields[i]
            if field.id != H_X_FORWARDED_FOR:
                continue
            text = field.value
            end = field.value_length
            while True:
                start = end
                while start and text[start - 1] != 44:
                    start -= 1
                first = start
                last = end
                while first < last and (text[first] == 32 or text[first] == 9):
                    first += 1
                while last > first and (text[last - 1] == 32 or text[last - 1] == 9):
                    last -= 1
                if last > first:                  # an empty element is none (RFC 9110 section 5.6.1.2)
                    if not read_address(text + first, last - first, address):
                        return write_address(found, into) if any_found else 0
                    memcpy(found, address, 16)
                    any_found = True
                    if not self.holds(address):
                        return write_address(found, into)
                if start == 0:
                    break
                end = start - 1
        return write_address(found, into) if any_found else 0

    # For tests.

    def __contains__(self, str text):
        data = text.encode()
        return bool(self.contains(<const char *><bytes>data, <size_t>len(data)))
