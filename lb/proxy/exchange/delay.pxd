"""Exchanges that wait for their turn by the route's rate limit (nginx: a burst without `nodelay`)."""

from lb.http.head cimport Scan
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.exchange.parked cimport go_on_type


# Whether the exchange, which its rate limit has admitted, waits: it goes on by `go_on`, or has failed. False: its turn
# has come. `admission` is what `go_on` is given.
cdef bint delayed(Exchange exchange, Scan *scan, object admission, go_on_type go_on) noexcept
