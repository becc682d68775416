"""From a request's head to its exchange: the route is found, and the exchange that suits its pool is made."""

from lb.core.head cimport Field, Scan
from lb.core.poller cimport Poller
from lb.proxy.client cimport Client
from lb.proxy.conditions cimport tg_facts
from lb.proxy.exchange cimport Exchange
from lb.proxy.overload cimport Overload
from lb.proxy.route cimport Route
from lb.upstream.pool cimport Pool


cdef class Intake:
    """What the connections of a worker share: where their exchanges come from, and whether more are wanted."""
    cdef Poller poller
    cdef object new_infer             # makes the exchanges of oip pools
    cdef Overload overload
    cdef bint draining
    cdef Py_ssize_t busy              # exchanges in flight

    # The exchange of a request whose head is in `scan`, counted as busy; its client keeps it and then calls `start`.
    # None: the request was declined. `host` is without port.
    cdef Exchange admit(self, Client client, Scan *scan, const char *host, size_t host_length)
    cdef void sample(self, Exchange exchange, Scan *scan) noexcept
    cdef Route find_asked(self, Client client, tg_facts *facts)
    cdef Exchange new_exchange(self, Client client, Scan *scan, Pool pool)
    cdef void start(self, Exchange exchange, Scan *scan) noexcept


# The User-Agent of a head; NULL where it has none.
cdef const Field *find_agent(const Scan *scan) noexcept nogil
