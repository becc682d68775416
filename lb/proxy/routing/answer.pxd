"""Exchanges that their route answers itself: a redirect, or a fixed answer. No pool, no endpoint, no attempt."""

from lb.http.head cimport Scan
from lb.proxy.exchange.exchange cimport Exchange


# The answer of the exchange's route.
cdef void give_answer(Exchange exchange, Scan *scan) noexcept
# The answer to a browser that asks whether a page of another origin may send a request (lb.proxy.routing.cors).
cdef void give_preflight(Exchange exchange, Scan *scan) noexcept
