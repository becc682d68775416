"""Stick tables in the course of an exchange: it is counted, and denied where a rule says so."""

from lb.http.head cimport Scan
from lb.proxy.exchange.exchange cimport Exchange


# Counts the exchange in tables of its route, and asks rules: `late`, those that have to do with the client's identity,
# otherwise the others. False: it has been answered, or is held until it is. Nothing to do unless the route has such.
cdef bint track(Exchange exchange, Scan *scan, bint late) noexcept
