"""A client in front of another: what changes answers on their way, once the exchange has begun."""

from lb.proxy.client.client cimport Client


cdef class Relay(Client):
    """Passes everything on to `real`; those that change something are made of it."""
    cdef Client real

    # Stands in front of `client` from now on.
    cdef void stand_before(self, Client client) noexcept
