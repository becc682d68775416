"""The hash of where a client is: see source_key.pxd."""

from libc.stdint cimport uint64_t
from lb.shared.hashing cimport hash64
from lb.net.ip cimport AF_INET, ip_parse, tg_ip


cdef uint64_t hash_source(const char *text, size_t n, const tg_prefixes *prefixes) noexcept nogil:
    cdef tg_ip ip
    cdef int size, bits, i
    if prefixes.v4 == 32 and prefixes.v6 == 128 or ip_parse(&ip, text, n) < 0:
        return hash64(text, n)
    size = 4 if ip.family == AF_INET else 16
    bits = prefixes.v4 if ip.family == AF_INET else prefixes.v6
    for i in range(size):
        if bits < 8:
            ip.octets[i] &= <unsigned char>(0xff00 >> max(bits, 0))
        bits -= 8
    return hash64(ip.octets, <size_t>size)
