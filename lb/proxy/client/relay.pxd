"""A client in front of another: what changes answers on their way, once the exchange has begun."""

from lb.proxy.client.client cimport Client
from lb.proxy.exchange.exchange cimport Exchange


cdef class Relay(Client):
    """Passes everything on to `real`; those that change something are made of it."""
    cdef Client real
    cdef Exchange exchange            # whose client it is; None when that is over, so that they do not hold each other

    # Is the client of `exchange`, in front of that which it has, from now on.
    cdef void stand_before(self, Exchange exchange) noexcept
