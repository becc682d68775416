"""Who may connect to a listener, and how often: what is decided by the client's address alone."""

from libc.stdint cimport uint32_t, uint64_t
from lb.net.ip cimport Networks, tg_ip
from lb.shared.buckets cimport Buckets, tg_limit


cdef class SourceGuard:
    cdef Networks refused             # who may not connect; None = everybody may
    cdef Buckets buckets              # None = as often as anybody likes
    cdef tg_limit limit
    cdef uint64_t scope               # tells this listener's buckets from those of the others
    cdef uint64_t masks[2]            # of the numbers of IPv4 and IPv6 networks (network_mask)

    # FAIL_NONE, FAIL_DENIED or FAIL_CONNECTION_RATE, for a client that connects at `now`. An address of family 0 (a
    # Unix socket) may always connect.
    cdef int judge(self, const tg_ip *ip, uint64_t now) noexcept nogil


# The network of an address as a number: an IPv4 address, or the first half of an IPv6 one. 0 for no address.
cdef uint64_t network_of(const tg_ip *ip) noexcept nogil
# What of such a number counts, where the first `prefix` bits of the address do.
cdef uint64_t network_mask(bint v6, int prefix) noexcept nogil
# The guard of a ListenerPlan; None where it lets everybody in.
cdef SourceGuard guard_of(plan, segment)
