"""Who may connect to a listener, and how often: see source_guard.pxd."""

from libc.stdint cimport uint64_t
from lb.failure cimport FAIL_CONNECTION_RATE, FAIL_DENIED, FAIL_NONE
from lb.net.ip cimport AF_INET, AF_INET6, Networks, tg_ip
from lb.shared.buckets cimport Buckets, make_limit, tg_verdict


cdef uint64_t network_of(const tg_ip *ip) noexcept nogil:
    cdef uint64_t number = 0
    cdef int i, width = 4 if ip.family == AF_INET else 8
    if ip.family == 0:
        return 0
    for i in range(width):
        number = (number << 8) | <uint64_t>ip.octets[i]
    return number


cdef uint64_t network_mask(bint v6, int prefix) noexcept nogil:
    cdef int width = 64 if v6 else 32
    cdef uint64_t every = 0xFFFFFFFFFFFFFFFFULL if v6 else 0xFFFFFFFFULL
    return every if prefix >= width else every & ~(every >> prefix)


cdef class SourceGuard:

    cdef int judge(self, const tg_ip *ip, uint64_t now) noexcept nogil:
        cdef uint64_t parts[3]
        cdef tg_verdict verdict
        if ip.family == 0:
            return FAIL_NONE
        if self.refused is not None and self.refused.contains_ip(ip):
            return FAIL_DENIED
        if self.buckets is None:
            return FAIL_NONE
        parts[0] = self.scope
        parts[1] = network_of(ip) & self.masks[ip.family == AF_INET6]
        parts[2] = <uint64_t>ip.family
        self.buckets.take(self.buckets.key_of(parts, sizeof(parts)), &self.limit, now, &verdict)
        return FAIL_NONE if verdict.admitted else FAIL_CONNECTION_RATE


cdef SourceGuard guard_of(plan, segment):
    cdef SourceGuard guard
    sources = plan.sources
    if not (sources.refused4 or sources.refused6 or sources.rate_interval_ns):
        return None
    guard = SourceGuard.__new__(SourceGuard)
    if sources.refused4 or sources.refused6:
        guard.refused = Networks((), (sources.refused4, sources.refused6))
    if sources.rate_interval_ns:
        guard.buckets = Buckets(segment)
        guard.limit = make_limit(sources.rate_interval_ns, sources.rate_burst)
        guard.scope = guard.buckets.key(b"connections:" + plan.name.encode())
    guard.masks[0] = network_mask(False, sources.ipv4_prefix)
    guard.masks[1] = network_mask(True, sources.ipv6_prefix)
    return guard
