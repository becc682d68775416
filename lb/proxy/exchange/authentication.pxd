"""Who an exchange is from, where its route asks for that."""

from lb.http.head cimport Scan
from lb.proxy.exchange.exchange cimport Exchange

# Goes on with an exchange whose head names who it is from; `admission` is what `authenticate` was given.
ctypedef void (*go_on_type)(object admission, Exchange exchange, Scan *scan) noexcept

# Whether the exchange may go on: its head then names who it is from. False: it has failed, or waits for a check and
# goes on by `go_on`.
cdef bint authenticate(Exchange exchange, Scan *scan, object admission, go_on_type go_on) noexcept
