"""Endpoints that are reached from a chosen address: see source.pxd."""

from typing import TYPE_CHECKING

cimport cython
from lb.net.address cimport Address
from lb.net.ip cimport ip_parse, tg_ip
from lb.net.tls.peer cimport Peer

if TYPE_CHECKING:
    from lb.config.plan.plan import KeepalivePlan, SourcePlan


def address_from(str text, Peer tls, keepalive: KeepalivePlan | None, plan: SourcePlan) -> SourceAddress:
    """The address `text`, reached from where `plan` says; `tls` and `keepalive` are as for Address. Raises ValueError
    when one of both is no address."""
    cdef SourceAddress made = SourceAddress.__new__(SourceAddress, text, tls, keepalive)
    cdef bytes host = plan.address.encode()
    cdef tg_ip ip
    made.source.first, made.source.last = plan.first, plan.last
    made.client = made.source.transparent = not plan.address
    if not made.client:
        if ip_parse(&ip, <const char *>host, <size_t>len(host)) < 0:
            raise ValueError(f"not an IP address: {plan.address!r}")
        tg_source_assign(&made.source, ip.family, ip.octets)
    return made


@cython.final
cdef class SourceAddress(Address):

    cdef SourceAddress of(self, const char *ip, size_t n):
        cdef SourceAddress made
        cdef tg_ip parsed
        if ip_parse(&parsed, ip, n) < 0:
            return None
        made = SourceAddress.__new__(SourceAddress, self.text, self.tls)
        made.keepalive = self.keepalive
        made.source = self.source
        tg_source_assign(&made.source, parsed.family, parsed.octets)
        return made

    cdef int bind(self, int fd) noexcept:
        return tg_source_bind(&self.source, fd, self.family)
