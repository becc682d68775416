"""An exchange that its route answers itself: a redirect, or a fixed answer. No pool, no endpoint."""

from lb.net.buffer cimport tg_buffer
from lb.http.head cimport Scan
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.routing.route cimport Answer


cdef class AnswerExchange(Exchange):
    cdef int append_location(self, tg_buffer *head, Scan *scan, Answer answer) noexcept
    cdef void give(self, int status, tg_buffer *head, bytes body) noexcept


cdef class PreflightExchange(AnswerExchange):
    """The answer to a browser that asks whether a page of another origin may send a request (lb.proxy.routing.cors)."""
