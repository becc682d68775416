"""An exchange that its route answers itself: a redirect, or a fixed answer. No pool, no endpoint."""

from lb.core.buffer cimport tg_buffer
from lb.core.head cimport Scan
from lb.proxy.exchange cimport Exchange
from lb.proxy.route cimport Answer


cdef class AnswerExchange(Exchange):
    cdef int append_location(self, tg_buffer *head, Scan *scan, Answer answer) noexcept
    cdef void give(self, int status, tg_buffer *head, bytes body) noexcept


cdef class PreflightExchange(AnswerExchange):
    """The answer to a browser that asks whether a page of another origin may send a request (lb.proxy.cors)."""
