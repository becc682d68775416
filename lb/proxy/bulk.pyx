"""Long bodies past this process: see bulk.pxd."""

from libc.stdint cimport uint64_t
from lb.core.buffer cimport tg_buffer_size
from lb.core.splice cimport PASS_LOST, PASS_NOT, pass_through
from lb.proxy.exchange cimport X_ANSWERING, X_PICKED
from lb.proxy.forward cimport HIGH_WATER, ForwardExchange
from lb.proxy.http1_answer cimport AnsweringConnection
from lb.upstream.http1 cimport Http1Upstream


cdef Py_ssize_t pass_request(ForwardExchange exchange, size_t size) noexcept:
    cdef Http1Upstream upstream = exchange.upstream
    cdef Py_ssize_t n
    if exchange.kept or exchange.chunked or exchange.state != X_PICKED or tg_buffer_size(&exchange.request):
        return PASS_NOT
    if upstream is None or upstream.connecting or upstream.tls is not None or upstream.pending() or upstream.deaf:
        return PASS_NOT
    if exchange.bytes_in + size > exchange.route.max_body:
        return PASS_NOT
    n = pass_through(exchange.client, upstream, size)
    if n == PASS_LOST:
        upstream.write_failed()
    elif n > 0:
        exchange.bytes_in += <uint64_t>n
        exchange.wants_body = upstream.pending() < HIGH_WATER
        if not exchange.wants_body:
            exchange.arm_wait()               # nobody else watches an endpoint that takes no more of it
        upstream.poller.mark(upstream)
    return n


cdef Py_ssize_t pass_response(ForwardExchange exchange, Http1Upstream upstream, size_t size) noexcept:
    cdef AnsweringConnection client
    cdef Py_ssize_t n
    if exchange.state != X_ANSWERING or exchange.upgraded or not isinstance(exchange.client, AnsweringConnection):
        return PASS_NOT
    client = <AnsweringConnection>exchange.client
    if client.fd < 0 or client.chunking or client.tls is not None or client.pending():
        return PASS_NOT
    n = pass_through(upstream, client, size)
    if n == PASS_LOST:
        client.close_now()                    # which tells the exchange
    elif n > 0:
        exchange.bytes_out += <uint64_t>n
        client.send_deadline = 0
        client.poller.mark(client)
        if client.backlog() > HIGH_WATER:
            upstream.pause()
        exchange.arm_wait()
    return n
