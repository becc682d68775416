"""What an exchange does behind an upgrade that was granted: see upgrade.pxd."""

import base64
import hashlib

from libc.stdint cimport UINT64_MAX, uint64_t
from lb.core.buffer cimport tg_buffer_head, tg_buffer_size
from lb.core.chunks cimport GATHERED
from lb.core.head cimport H_CONNECTION, H_UPGRADE, Field, Scan, has_token, mark_hop_by_hop, same_name
from lb.core.stream cimport IO_ERROR, iovec
from lb.proxy.exchange cimport X_ANSWERING, X_DONE
from lb.proxy.forward cimport HIGH_WATER, ForwardExchange
from lb.proxy.session cimport learn_session
from lb.upstream.failure cimport FAIL_RESET
from lb.upstream.http1 cimport Http1Upstream


cdef bytes WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


cdef bint is_granted(ForwardExchange exchange, const Scan *scan) noexcept:
    cdef bytes head = tg_buffer_head(&exchange.request)[:tg_buffer_size(&exchange.request)]
    cdef bytes asked = field_of(head, b"upgrade")
    cdef bytes key
    cdef const Field *field
    if asked is None or not has_field_token(scan, H_UPGRADE, asked):
        return False
    if not has_field_token(scan, H_CONNECTION, b"upgrade"):
        return False
    if asked != b"websocket":
        return True
    key = field_of(head, b"sec-websocket-key", False)
    field = only_field(scan, b"sec-websocket-accept")
    if key is None or field == NULL:
        return False
    return base64.b64encode(hashlib.sha1(key + WEBSOCKET_GUID).digest()) == field.value[:field.value_length]


cdef bytes field_of(bytes head, bytes name, bint lower=True):
    """The value of the only field of that name in a head of ours; None: there is none, or several."""
    found = [line for line in head.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
             if line.partition(b":")[0].lower() == name]
    if len(found) != 1:
        return None
    value = found[0].partition(b":")[2].strip()
    return value.lower() if lower else value


cdef bint has_field_token(const Scan *scan, int id, bytes token) noexcept:
    cdef int i
    for i in range(scan.field_count):
        if scan.fields[i].id == id and has_token(&scan.fields[i], <const char *>token):
            return True
    return False


cdef const Field *only_field(const Scan *scan, const char *name) noexcept:
    cdef const Field *found = NULL
    cdef int i
    for i in range(scan.field_count):
        if same_name(scan.fields[i].name, scan.fields[i].name_length, name):
            if found != NULL:
                return NULL
            found = &scan.fields[i]
    return found


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
    cdef int i, failed = 0
    if upstream is None or exchange.request_complete:
        return
    exchange.bytes_in += size
    if size >= GATHERED or exchange.version != 20:
        failed = count and upstream.push_parts(spans, count) == IO_ERROR
    else:
        for i in range(count):                        # frames may be many: one write at the end of the batch
            failed |= upstream.queue(spans[i].iov_base, spans[i].iov_len)
        upstream.poller.mark(upstream)
    if failed:
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
