"""Errors of endpoints whose place an error page takes."""

from libc.stdint cimport uint64_t
from lb.http.head cimport Scan
from lb.proxy.client.relay cimport Relay
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.routing.error_pages cimport ErrorPage


cdef class Intercepted(Relay):
    """The client gets the page with the head of the endpoint's answer; what the endpoint says itself is read away, so
    that its connection can go on, or, where that is much or takes long, given up."""
    cdef ErrorPage page
    cdef size_t size                  # bytes of the page that the client gets
    cdef bytes length                 # the same as text
    cdef uint64_t dropped             # of what the endpoint said

    cdef void change_head(self, Scan *scan, size_t size) noexcept
    cdef void give_up(self) noexcept


# The head of an endpoint's answer is about to be passed on, with a status of 400 or more: has the client get the page
# for it, where the route or its listener has one that intercepts.
cdef void intercept(Exchange exchange, Scan *scan) noexcept
