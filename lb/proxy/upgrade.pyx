"""What an exchange does behind an upgrade that was granted: see upgrade.pxd."""

from libc.stdint cimport UINT64_MAX, uint64_t
from lb.core.head cimport Scan, mark_hop_by_hop
from lb.core.stream cimport IO_ERROR, iovec
from lb.proxy.exchange cimport X_ANSWERING, X_DONE
from lb.proxy.forward cimport HIGH_WATER, ForwardExchange
from lb.proxy.session cimport learn_session
from lb.upstream.failure cimport FAIL_RESET
from lb.upstream.http1 cimport Http1Upstream


cdef void switch_protocols(ForwardExchange exchange, Http1Upstream upstream, Scan *scan) noexcept:
    exchange.status = 101
    if exchange.pool.sessions is not None:
        learn_session(exchange, 101, scan.fields, scan.field_count)
    exchange.first_byte_at = exchange.client.poller.now
    exchange.move(X_ANSWERING)
    exchange.upgraded = True
    exchange.request_complete = False
    exchange.wants_body = True
    exchange.kept = False
    upstream.raw = True
    mark_hop_by_hop(scan)
    exchange.client.respond_upgrade(scan)
    touch(exchange)


cdef void touch(ForwardExchange exchange) noexcept:
    cdef uint64_t timeout = exchange.listener.upgrade_idle_timeout
    exchange.client.poller.arm(exchange, exchange.client.poller.now + timeout if timeout else UINT64_MAX)


cdef void take_raw(ForwardExchange exchange, const iovec *spans, int count, size_t size, bint last) noexcept:
    cdef Http1Upstream upstream = exchange.upstream
    if upstream is None or exchange.request_complete:
        return
    exchange.bytes_in += size
    if count and upstream.push_parts(spans, count) == IO_ERROR:
        upstream.broken(FAIL_RESET)
        return
    touch(exchange)
    exchange.request_complete = last
    exchange.wants_body = upstream.pending() < HIGH_WATER
    if last and not upstream.pending():
        upstream.shutdown_write()


cdef void raw_drained(ForwardExchange exchange, Http1Upstream upstream) noexcept:
    if exchange.request_complete:
        upstream.shutdown_write()
    elif not exchange.wants_body:
        exchange.wants_body = True
        exchange.client.resume_request()


cdef void give_raw(ForwardExchange exchange, Http1Upstream upstream, const char *data, size_t n) noexcept:
    cdef iovec part
    part.iov_base = <void *>data
    part.iov_len = n
    exchange.bytes_out += n
    touch(exchange)
    exchange.client.respond_body(&part, 1)
    if exchange.state != X_DONE and exchange.client.backlog() > HIGH_WATER:
        upstream.pause()
