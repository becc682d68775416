"""What a route does to a request before its exchange begins, whatever protocol it came by."""

from lb.http.head cimport Scan
from lb.proxy.exchange.exchange cimport Exchange

# The route's limits, its new path and its changes to the fields. False: the exchange has been answered. Before
# Exchange.begin, with the exchange bound to its client, listener, route and pool. Nothing to do unless `route.acts`.
cdef bint admit(Exchange exchange, Scan *scan) noexcept
# The request is answered for a text that cannot be made of it: `failed` is FORMAT_… of lb.proxy.routing.values.format.
# False.
cdef bint refuse_value(Exchange exchange, int failed, str what) noexcept
