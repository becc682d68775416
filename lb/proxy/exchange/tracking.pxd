"""Stick tables in the course of an exchange: it is counted, and denied where a rule says so."""

from lb.http.head cimport Scan
from lb.proxy.exchange.exchange cimport Exchange


# Counts the exchange in the tables of its route, and asks the rules. False: it has been answered, or is held until it
# is. Nothing to do unless the route has tracking.
cdef bint track(Exchange exchange, Scan *scan) noexcept
