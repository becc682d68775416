"""What an exchange offers to the texts of its route."""

from lb.http.head cimport Scan
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.routing.values.format cimport RequestValues, tg_values


# What `wanted` asks for, before the route changes anything of the head; good as long as the scan is.
cdef void gather(tg_values *values, Exchange exchange, const Scan *scan, RequestValues wanted) noexcept
