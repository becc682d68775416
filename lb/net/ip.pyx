"""IP addresses as bytes, and sets of networks: see ip.pxd."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset, strlen

from lb.config.network import parse_network

cdef extern from "<sys/socket.h>" nogil:
    ctypedef uint32_t socklen_t

cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int family, const void *address, char *text, socklen_t size)
    int inet_pton(int family, const char *text, void *into)

cdef const char *MAPPED = b"\0\0\0\0\0\0\0\0\0\0\xff\xff"


cdef inline uint32_t big32(const unsigned char *p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | <uint32_t>p[3]


cdef inline uint64_t big64(const unsigned char *p) noexcept nogil:
    return (<uint64_t>big32(p) << 32) | <uint64_t>big32(p + 4)


cdef void ip_set(tg_ip *ip, int family, const void *octets) noexcept nogil:
    cdef const unsigned char *bytes_in = <const unsigned char *>octets
    memset(ip, 0, sizeof(tg_ip))
    if family == AF_INET6 and memcmp(bytes_in, MAPPED, 12) == 0:
        family = AF_INET
        bytes_in += 12
    if family == AF_INET:
        ip.family = AF_INET
        memcpy(ip.octets, bytes_in, 4)
    elif family == AF_INET6:
        ip.family = AF_INET6
        memcpy(ip.octets, bytes_in, 16)


cdef int ip_parse(tg_ip *ip, const char *text, size_t n) noexcept nogil:
    cdef char copy[IP_TEXT]
    cdef unsigned char octets[16]
    memset(ip, 0, sizeof(tg_ip))
    if n == 0 or n >= IP_TEXT:
        return -1
    memcpy(copy, text, n)
    copy[n] = 0
    if strlen(copy) != n:
        return -1                     # what is behind a NUL would go unseen
    if inet_pton(AF_INET, copy, octets) == 1:
        ip_set(ip, AF_INET, octets)
    elif inet_pton(AF_INET6, copy, octets) == 1:
        ip_set(ip, AF_INET6, octets)
    else:
        return -1
    return 0


cdef int format4(const unsigned char *octets, char *text) noexcept nogil:
    """As inet_ntop, which goes through printf: it took a thirteenth of a request on a new connection."""
    cdef int i, n = 0
    cdef unsigned char octet
    for i in range(4):
        octet = octets[i]
        if octet >= 100:
            text[n] = <char>(48 + octet // 100)
            n += 1
        if octet >= 10:
            text[n] = <char>(48 + octet // 10 % 10)
            n += 1
        text[n] = <char>(48 + octet % 10)
        text[n + 1] = 46
        n += 2
    text[n - 1] = 0
    return n - 1


cdef int ip_format(const tg_ip *ip, char *text) noexcept nogil:
    if ip.family == AF_INET:
        return format4(ip.octets, text)
    text[0] = 0
    # It fails only for an unknown family or for want of room: neither can be.
    if ip.family == 0 or inet_ntop(ip.family, ip.octets, text, IP_TEXT) == NULL:
        return 0
    return <int>strlen(text)


def merged(ranges):
    """The (first, last) pairs `ranges`, sorted, with those that touch or overlap made one."""
    result = []
    begin = end = None
    for first, last in sorted(ranges):
        if end is not None and first <= end + 1:
            end = max(end, last)
            continue
        if end is not None:
            result.append((begin, end))
        begin, end = first, last
    if end is not None:
        result.append((begin, end))
    return result


cdef class Networks:
    """`texts` are networks or addresses; raises ValueError for what is neither. `ranges` are taken in their place where
    they are given: bytes of tg_range4 and of tg_range6, each sorted and apart.

    `::/0` holds every IPv6 address and `0.0.0.0/0` every IPv4 address, mapped ones included; neither holds the other's.
    """

    def __cinit__(self, texts, ranges=None):
        cdef Py_ssize_t i
        if ranges is not None:
            self.take(ranges[0], ranges[1])
            return
        networks = [parse_network(text) for text in texts]
        ranges = {4: [], 6: []}
        for network in networks:
            ranges[network.version].append((int(network.network_address), int(network.broadcast_address)))
        four, six = merged(ranges[4]), merged(ranges[6])
        self.v4 = <tg_range4 *>calloc(<size_t>len(four) + 1, sizeof(tg_range4))
        self.v6 = <tg_range6 *>calloc(<size_t>len(six) + 1, sizeof(tg_range6))
        if self.v4 == NULL or self.v6 == NULL:
            raise MemoryError
        for i, (first, last) in enumerate(four):
            self.v4[i].first = first
            self.v4[i].last = last
        for i, (first, last) in enumerate(six):
            self.v6[i].first[0] = first >> 64
            self.v6[i].first[1] = first & 0xFFFFFFFFFFFFFFFF
            self.v6[i].last[0] = last >> 64
            self.v6[i].last[1] = last & 0xFFFFFFFFFFFFFFFF
        self.count4 = len(four)
        self.count6 = len(six)

    cdef int take(self, bytes four, bytes six) except -1:
        if len(four) % sizeof(tg_range4) or len(six) % sizeof(tg_range6):
            raise ValueError("not ranges of addresses")
        self.v4 = <tg_range4 *>calloc(<size_t>len(four) + 1, 1)
        self.v6 = <tg_range6 *>calloc(<size_t>len(six) + 1, 1)
        if self.v4 == NULL or self.v6 == NULL:
            raise MemoryError
        memcpy(self.v4, <const char *>four, <size_t>len(four))
        memcpy(self.v6, <const char *>six, <size_t>len(six))
        self.count4 = len(four) // <Py_ssize_t>sizeof(tg_range4)
        self.count6 = len(six) // <Py_ssize_t>sizeof(tg_range6)
        return 0

    def __dealloc__(self):
        free(self.v4)
        free(self.v6)

    cdef bint has4(self, uint32_t value) noexcept nogil:
        cdef Py_ssize_t low = 0, high = self.count4, middle
        while low < high:             # the number of ranges that begin at or before the value
            middle = (low + high) // 2
            if self.v4[middle].first <= value:
                low = middle + 1
            else:
                high = middle
        return low > 0 and value <= self.v4[low - 1].last

    cdef bint has6(self, uint64_t high_half, uint64_t low_half) noexcept nogil:
        cdef Py_ssize_t low = 0, high = self.count6, middle
        cdef const uint64_t *bound
        while low < high:
            middle = (low + high) // 2
            bound = self.v6[middle].first
            if bound[0] < high_half or (bound[0] == high_half and bound[1] <= low_half):
                low = middle + 1
            else:
                high = middle
        if low == 0:
            return False
        bound = self.v6[low - 1].last
        return high_half < bound[0] or (high_half == bound[0] and low_half <= bound[1])

    cdef bint contains(self, int family, const unsigned char *octets) noexcept nogil:
        cdef tg_ip ip
        ip_set(&ip, family, octets)
        return self.contains_ip(&ip)

    cdef bint contains_ip(self, const tg_ip *ip) noexcept nogil:
        if ip.family == AF_INET:
            return self.has4(big32(&ip.octets[0]))
        if ip.family == AF_INET6:
            return self.has6(big64(&ip.octets[0]), big64(&ip.octets[8]))
        return False

    cdef bint contains_text(self, const char *text, size_t n) noexcept nogil:
        cdef tg_ip ip
        return ip_parse(&ip, text, n) == 0 and self.contains_ip(&ip)

    def __contains__(self, str text not None):
        data = text.encode()
        return self.contains_text(data, <size_t>len(data))

    def __len__(self):
        """The number of ranges that are left of the networks."""
        return self.count4 + self.count6

    def __repr__(self):
        return f"<Networks {self.count4} ranges of IPv4, {self.count6} of IPv6>"
