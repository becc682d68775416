"""Exchanges that are refused: see refused.pxd."""

from libc.string cimport memset
from lb.core.buffer cimport tg_buffer, tg_buffer_free
from lb.core.head_text cimport append_number, append_text
from lb.core.segment cimport TG_S_REJECTED, TG_S_TIMEOUTS, tg_add
from lb.proxy.bound cimport goes_on
from lb.proxy.exchange cimport Exchange
from lb.proxy.explained cimport append_explanation, no_choice
from lb.proxy.refusal cimport Refusal, refusal
from lb.upstream.queue cimport Q_HOPELESS, Q_NOBODY, Q_SHED, Q_TIMEOUT


cdef void refuse_exchange(Exchange exchange, int why) noexcept:
    cdef str pool = exchange.pool.name
    if why == Q_NOBODY and exchange.pinned and goes_on(exchange):
        return
    if exchange.explained:
        no_choice(exchange, exchange.client.poller.now, why)
    if why == Q_NOBODY and exchange.bound != -1:
        exchange.fail_lost()
        return
    if why == Q_HOPELESS and exchange.client.poller.now >= exchange.due():
        tg_add(&exchange.route.series[TG_S_TIMEOUTS], 1)
        exchange.fail(504, b"timeout", f"no endpoint of pool {pool} had room in time")
        return
    if why == Q_NOBODY and exchange.wanted and exchange.pool.crowded():
        exchange.model_not_ready()
        return
    tg_add(&exchange.route.series[TG_S_REJECTED], 1)
    if why == Q_NOBODY:
        exchange.fail(503, b"no-endpoint", f"no endpoint of pool {pool} is available")
    elif why == Q_HOPELESS:
        exchange.fail(503, b"queue-late", f"the queue of pool {pool} is too long to answer in time")
    elif why == Q_SHED:
        exchange.fail(503, b"queue-shed", f"pool {pool} is overloaded")
    elif why == Q_TIMEOUT:
        exchange.fail(503, b"queue-timeout", f"the endpoints of pool {pool} were busy for too long")
    else:
        exchange.fail(503, b"queue-full", f"the endpoints of pool {pool} are busy, and its queue is full")


cdef Refusal refusal_of(Exchange exchange, int status, str message):
    cdef tg_buffer fields
    memset(&fields, 0, sizeof(fields))
    try:
        append_fields(exchange, status, &fields)
        return refusal(status, message, exchange.grpc, &fields)
    finally:
        tg_buffer_free(&fields)


cdef void append_fields(Exchange exchange, int status, tg_buffer *fields) noexcept:
    if exchange.rate.wait and status == 429:
        exchange.route.rate.append_refusal(fields, &exchange.rate)
    elif exchange.rate.admitted:
        exchange.route.rate.append_fields(fields, &exchange.rate)
    if status == 503 and exchange.pool is not None and exchange.pool.queue is not None:
        append_text(fields, b"Retry-After: ")
        append_number(fields, exchange.pool.queue.retry_after(exchange.client.poller.now))
        append_text(fields, b"\r\n")
    if exchange.explained:
        append_explanation(exchange, fields)
    if exchange.route.cors is not None:
        exchange.append_cors(fields, False)
