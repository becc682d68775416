"""Who an exchange is from, where its route asks for that."""

from lb.http.head cimport Scan
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.exchange.parked cimport go_on_type

# Whether the exchange may go on: its head then names who it is from. False: it has failed, or waits for a check and
# goes on by `go_on`, which is given `admission`.
cdef bint authenticate(Exchange exchange, Scan *scan, object admission, go_on_type go_on) noexcept
