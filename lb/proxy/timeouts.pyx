"""Timeouts of an exchange: see timeouts.pxd."""

from libc.stdint cimport uint64_t
from lb.core.segment cimport TG_S_TIMEOUTS, tg_add
from lb.proxy.exchange cimport X_ANSWERING, X_DONE, X_QUEUED, Exchange
from lb.proxy.refused cimport refuse_exchange
from lb.upstream.queue cimport Q_HOPELESS, Q_TIMEOUT


cdef uint64_t limit_of_answer(Exchange exchange) noexcept:
    if exchange.route.response_timeout < 0:
        return exchange.pool.response_timeout
    return <uint64_t>exchange.route.response_timeout


cdef uint64_t limit_of_try(Exchange exchange) noexcept:
    cdef uint64_t limit = limit_of_answer(exchange)
    cdef uint64_t of_try
    if exchange.route.retry is None or exchange.route.retry.per_try_timeout == 0:
        return limit
    of_try = exchange.route.retry.per_try_timeout
    return min(limit, of_try) if limit else of_try


cdef void time_is_over(Exchange exchange) noexcept:
    cdef uint64_t now = exchange.client.poller.now
    if exchange.state == X_DONE:
        return
    if exchange.state == X_QUEUED:
        exchange.leave_queue(True)
        refuse_exchange(exchange, Q_HOPELESS if now >= exchange.due() else Q_TIMEOUT)
        return
    if exchange.state == X_ANSWERING and now < exchange.expires and (
            exchange.client.backlog() or (exchange.wants_body and not exchange.request_complete)):
        exchange.arm_wait()           # the client is slow, not the endpoint; the client has a timeout of its own
        return
    tg_add(&exchange.route.series[TG_S_TIMEOUTS], 1)
    if not exchange.request_complete and exchange.wants_body and exchange.state < X_ANSWERING:
        exchange.fail(408, b"slow-body", "the request did not come in the time that its route allows")
        return
    if exchange.endpoint >= 0:
        tg_add(&exchange.pool.series[exchange.endpoint][TG_S_TIMEOUTS], 1)
    exchange.fail(504, b"timeout", "the endpoint did not answer in time")
