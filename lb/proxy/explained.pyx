"""Explanations of exchanges while they run: see explained.pxd.

An exchange has no room for an explanation; those few that have one are found by their address.
"""

import logging

from libc.stdint cimport uint64_t
from lb.core.buffer cimport tg_buffer, tg_buffer_append
from lb.endpoints.set cimport EndpointSet
from lb.proxy.exchange cimport X_QUEUED, Exchange
from lb.proxy.sampler cimport EXPLAIN_ASKED
from lb.telemetry.accesslog cimport set_explanation, tg_access
from lb.upstream.pool cimport Pool
from lb.upstream.queue cimport BARS_ALL, Q_FULL, Q_HOPELESS, Q_NOBODY, Q_SHED, Q_TIMEOUT

from lb.proxy.choices import NOBODY, View
from lb.proxy.explanation import HEADER_BYTES, LOG_BYTES, Explanation

log = logging.getLogger("tidegate.proxy")

cdef dict OPEN = {}                   # address of an exchange -> its Explanation
cdef dict REFUSED = {
    Q_FULL: "all that take requests have as many as they may, and so has the queue",
    Q_HOPELESS: "its turn would come too late",
    Q_SHED: "the queue is kept short in an overload",
    Q_TIMEOUT: "it has waited as long as one may",
    Q_NOBODY: NOBODY,
}


cdef object explanation_of(Exchange exchange):
    key = <size_t><void *>exchange
    found = OPEN.get(key)
    if found is None:
        found = OPEN[key] = Explanation(exchange.explained == EXPLAIN_ASKED)
    return found


cdef bint has_room(Exchange exchange) noexcept:
    """Whether an endpoint would take it: most looks of one who waits find none, and are not worth a view."""
    cdef EndpointSet endpoints = exchange.pool.endpoints
    cdef int i
    for i in range(endpoints.size):
        if not endpoints.limits[i] or endpoints.running(i) < endpoints.limits[i]:
            return True
    return False


cdef void before_choice(Exchange exchange, uint64_t now, int exclude, bint turn) noexcept:
    cdef Pool pool = exchange.pool
    cdef uint64_t avoided = pool.endpoints.avoided, bars = avoided
    try:
        explanation = explanation_of(exchange)
        explanation.view = None               # of a choice that fell on nobody
        if turn and not has_room(exchange):
            return
        if not turn and pool.queue is not None and pool.queue.somebody():
            bars = pool.queue.bars()
            if bars == BARS_ALL or bars & exchange.wanted:
                return                        # nothing is chosen: it has to stand in line
        pool.endpoints.select(0, bars)
        explanation.look(View.of(pool, now, exchange.key, exclude, exchange.wanted), exclude)
    except Exception:
        log.exception("a choice could not be explained")
    finally:
        pool.endpoints.select(0, avoided)


cdef void after_choice(Exchange exchange, uint64_t now, int found, str beside) noexcept:
    cdef Pool pool = exchange.pool
    if found < 0:
        return
    try:
        explanation = explanation_of(exchange)
        view = explanation.view
        if exchange.bound == found:
            why = "it has the sequence's state"
        elif exchange.kept_to == found:
            why = "its cookie names it"
        elif view is None:
            why = "the policy chose it"
        else:
            why = view.why(found, spared_of(pool, now))
        explanation.choose(found, {
            "endpoint": pool.endpoints.addresses[found],
            "for": "hedge" if beside is not None else "retry" if exchange.tries else "first try",
            "why": why,
            "after_ms": milliseconds(now, exchange.started),
            "steps": steps_of(exchange, now, beside),
        })
    except Exception:
        log.exception("a choice could not be explained")


cdef int explain_choice(Exchange exchange, uint64_t now, bint turn) noexcept:
    cdef int found
    before_choice(exchange, now, exchange.last_endpoint, turn)
    found = exchange.choose(now, turn)
    after_choice(exchange, now, found, None)
    return found


cdef list spared_of(Pool pool, uint64_t now):
    cdef int i
    if pool.suspects == NULL:
        return []
    return [i for i in range(pool.endpoints.size) if pool.suspects[i].until > now]


cdef list steps_of(Exchange exchange, uint64_t now, str beside):
    """What narrowed the choice before the policy had a say, in this order."""
    cdef tuple addresses = exchange.pool.endpoints.addresses
    steps = []
    if exchange.pinned:
        steps.append("sequence: it begins" if exchange.bound == -1 else "sequence: it is open")
    if exchange.kept_to >= 0:
        steps.append(f"affinity: the cookie names {addresses[exchange.kept_to]}")
    if exchange.wanted:
        steps.append(f"model {exchange.wanted_model.decode('utf-8', 'replace')}: only where it is ready")
    if exchange.state == X_QUEUED:
        steps.append(f"queue: it waited {milliseconds(now, exchange.queued_at)} ms")
    if beside is not None:
        steps.append(f"hedge: {beside} has not answered for {milliseconds(now, exchange.picked_at)} ms")
    elif exchange.tries and exchange.last_endpoint >= 0:
        steps.append(f"retry: other than {addresses[exchange.last_endpoint]}")
    return steps


cdef object milliseconds(uint64_t now, uint64_t since):
    return round((now - since) / 1e6, 3) if now > since else 0.0


cdef void no_choice(Exchange exchange, uint64_t now, int why) noexcept:
    try:
        explanation = explanation_of(exchange)
        view = View.of(exchange.pool, now, exchange.key, exchange.last_endpoint, exchange.wanted)
        explanation.look(view, exchange.last_endpoint)
        words = REFUSED[why]
        if why == Q_NOBODY and exchange.bound != -1:
            words = "the endpoint that has the sequence's state is gone"
        elif why == Q_NOBODY and exchange.wanted and exchange.pool.crowded():
            words = "no endpoint that takes requests has the model ready"
        elif why == Q_NOBODY and view.scores:
            words = "the policy chose none of those that take requests, or failed: see the log"
        explanation.choose(-1, {
            "endpoint": None,
            "for": "retry" if exchange.tries else "first try",
            "why": words,
            "after_ms": milliseconds(now, exchange.started),
            "steps": steps_of(exchange, now, None),
        })
    except Exception:
        log.exception("a choice could not be explained")


cdef bytes text_of(Exchange exchange, size_t most):
    cdef Pool pool = exchange.pool
    address = pool.endpoints.addresses[exchange.last_endpoint] if exchange.last_endpoint >= 0 else None
    return explanation_of(exchange).text(pool.name, pool.policy_type, address, most)


cdef void append_explanation(Exchange exchange, tg_buffer *head) noexcept:
    cdef bytes text
    if exchange.explained != EXPLAIN_ASKED:
        return
    try:
        text = text_of(exchange, HEADER_BYTES)
    except Exception:
        log.exception("a choice could not be explained")
        return
    tg_buffer_append(head, b"X-Tidegate-Explain: ", 20)
    tg_buffer_append(head, <const char *>text, <size_t>len(text))
    tg_buffer_append(head, b"\r\n", 2)


cdef void explain_record(Exchange exchange, tg_access *record) noexcept:
    cdef bytes text
    try:
        text = text_of(exchange, LOG_BYTES)
    except Exception:
        log.exception("a choice could not be explained")
        return
    set_explanation(record, <const char *>text, <size_t>len(text))


cdef void forget_explanation(Exchange exchange) noexcept:
    OPEN.pop(<size_t><void *>exchange, None)
