"""The endpoint that a client stays with: see kept.pxd."""

import logging

from libc.stdint cimport uint64_t
from lb.core.buffer cimport tg_buffer
from lb.core.head cimport Scan
from lb.proxy.exchange cimport Exchange
from lb.proxy.keys cimport drop_cookie, find_value
from lb.proxy.refusal cimport SPEAKS_GRPC
from lb.telemetry.accesslog cimport wall_ns
from lb.upstream.cookie cimport EndpointCookie
from lb.upstream.pool cimport KEY_COOKIE
from lb.upstream.queue cimport TAKEN_FULL

log = logging.getLogger("tidegate.proxy")

cdef enum:
    SECOND_NS = 1_000_000_000


cdef void read_cookie(Exchange exchange, Scan *scan) noexcept:
    cdef EndpointCookie cookie = exchange.pool.cookie
    cdef const char *name = <const char *>cookie.name
    cdef size_t n = <size_t>len(cookie.name)
    cdef const char *text
    cdef size_t size
    cdef bint due = False
    if not find_value(scan, KEY_COOKIE, name, n, &text, &size):
        return
    exchange.kept_to = cookie.index_of(text, size, <uint64_t>wall_ns() // SECOND_NS, &due)
    exchange.cookie_due = due
    drop_cookie(scan, name, n)


cdef int acquire_kept(Exchange exchange, uint64_t now, bint turn) noexcept:
    cdef int found
    if exchange.last_endpoint == exchange.kept_to:
        exchange.kept_to = -1                 # it has failed: another is asked, and named from now on
        exchange.cookie_stays = False
    else:
        found = exchange.pool.acquire_kept(exchange.kept_to, now, exchange.wanted, turn)
        if found >= 0:
            return found
        exchange.cookie_stays = found == TAKEN_FULL
    return exchange.acquire_any(now, turn)


cdef void tell_client(Exchange exchange, tg_buffer *head) noexcept:
    cdef bint here = exchange.last_endpoint == exchange.kept_to
    if exchange.last_endpoint < 0 or exchange.bound != -1 or exchange.grpc == SPEAKS_GRPC:
        return                                # gRPC has no cookies
    if exchange.kept_to >= 0 and (not exchange.cookie_due if here else exchange.cookie_stays):
        return
    if exchange.pool.cookie.append(head, exchange.last_endpoint, <uint64_t>wall_ns() // SECOND_NS) < 0:
        log.error("pool %s: no memory for a cookie", exchange.pool.name)
