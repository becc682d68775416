"""The head of a request as an endpoint of HTTP/1.1 gets it: see forward_head.pxd."""

import base64
import os

from libc.stdint cimport uint64_t
from lb.core.buffer cimport tg_buffer_append
from lb.core.head cimport H_CONNECTION, H_EXPECT, H_HOST, H_TE, H_UPGRADE, Field, Scan, has_token, mark_hop_by_hop
from lb.core.head_text cimport append_fields, append_text
from lb.core.methods cimport method_text
from lb.proxy.client_certificate cimport append_client_certificate
from lb.proxy.fields cimport OMIT_CERTIFICATE, replace_host
from lb.proxy.forward cimport ForwardExchange
from lb.proxy.forwarded cimport tg_hop


cdef int build_head(ForwardExchange exchange, Scan *scan) noexcept:
    cdef size_t n
    cdef const char *method = method_text(scan, exchange.method, &n)
    cdef uint64_t skip = <uint64_t>1 << H_EXPECT
    cdef tg_hop hop
    cdef bytes name
    tg_buffer_append(&exchange.request, method, n)
    tg_buffer_append(&exchange.request, b" ", 1)
    tg_buffer_append(&exchange.request, scan.target, scan.target_length)
    append_text(&exchange.request, b" HTTP/1.1\r\n")
    mark_hop_by_hop(scan)
    hop.omit = 0 if exchange.route.request_fields is None else exchange.route.request_fields.omit
    if not hop.omit & OMIT_CERTIFICATE and append_client_certificate(&exchange.request, exchange.client, scan) < 0:
        return -1
    exchange.upgrading = upgrade_wanted(scan) and exchange.listener.may_upgrade(scan)
    if scan.first[H_HOST] < 0 and exchange.route.new_host is None:
        # HTTP/1.0 may come without; HTTP/1.1 may not go without.
        name = exchange.pool.name.encode()
        append_text(&exchange.request, b"Host: ")
        tg_buffer_append(&exchange.request, <const char *>name, <size_t>len(name))
        append_text(&exchange.request, b"\r\n")
    hop.text = &exchange.request
    if exchange.listener.hop.collect(scan, exchange.ids, exchange.client.ip, exchange.client.ip_length,
                                     exchange.client.scheme(), scan.version, &hop) < 0:
        return -1
    if exchange.route.new_host is not None and replace_host(scan, exchange.route.new_host) < 0:
        return -1                         # after X-Forwarded-Host, which says what the client asked for
    if append_fields(&exchange.request, scan, skip) < 0:
        return -1
    if exchange.chunked:
        append_text(&exchange.request, b"Transfer-Encoding: chunked\r\n")
    if exchange.upgrading:
        return append_upgrade(exchange, scan)
    if scan.first[H_TE] >= 0 and has_token(&scan.fields[scan.first[H_TE]], b"trailers"):
        append_text(&exchange.request, b"TE: trailers\r\nConnection: TE\r\n")
    return tg_buffer_append(&exchange.request, b"\r\n", 2)


cdef int append_upgrade(ForwardExchange exchange, Scan *scan) noexcept:
    """The end of a head that asks for an upgrade, and may be asked to by a stream (RFC 8441 section 5)."""
    cdef Field *field
    cdef bytes key
    if scan.websocket:
        key = b"Sec-WebSocket-Key: " + base64.b64encode(os.urandom(16)) + b"\r\n"
        tg_buffer_append(&exchange.request, <const char *>key, <size_t>len(key))
        return append_text(&exchange.request, b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    field = &scan.fields[scan.first[H_UPGRADE]]
    append_text(&exchange.request, b"Upgrade: ")
    tg_buffer_append(&exchange.request, field.value, field.value_length)
    return append_text(&exchange.request, b"\r\nConnection: Upgrade\r\n\r\n")


cdef bint upgrade_wanted(Scan *scan) noexcept:
    """Whether the request asks for another protocol (RFC 9110 section 7.8); one with a body does not get it."""
    if scan.websocket:
        return True
    return (scan.version == 11 and scan.first[H_UPGRADE] >= 0 and scan.first[H_CONNECTION] >= 0
            and not scan.chunked and scan.content_length == 0
            and has_token(&scan.fields[scan.first[H_CONNECTION]], b"upgrade"))
