"""From a request's head to its exchange: the route is found, and the exchange that suits its pool is made."""

from lb.http.head cimport Scan
from lb.net.poller cimport Poller
from lb.proxy.client.client cimport Client
from lb.proxy.routing.conditions cimport tg_facts
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.exchange.http_cache.fill cimport HttpCache
from lb.proxy.exchange.inference_body cimport InferContext
from lb.proxy.accept.overload cimport Overload
from lb.proxy.routing.route cimport Route
from lb.upstream.pool cimport Pool


cdef class Admission:
    """Where the exchanges of a worker's connections come from: what all these connections share."""
    cdef Poller poller
    cdef bint draining                # no more exchanges are wanted
    cdef Py_ssize_t busy              # exchanges in flight
    cdef InferContext context
    cdef Overload overload
    cdef HttpCache http_cache

    # The exchange of a request whose head is in `scan`, counted as busy; its client keeps it and then calls `start`.
    # None: the request was rejected. `host` is without port. `model` is one that the request's body names, NULL where
    # it does not, or is not looked at.
    cdef Exchange admit(self, Client client, Scan *scan, const char *host, size_t host_length, const char *model,
                        size_t model_length)
    # The route of a gRPC request for a model, if there is one for that model.
    cdef Route find_model(self, Client client, tg_facts *facts, const char *model, size_t model_length)
    cdef void sample(self, Exchange exchange, Scan *scan) noexcept
    cdef Route find_asked(self, Client client, tg_facts *facts)
    # Gives the exchange its attempt, and the body source that the pool needs. False: the pool cannot be spoken to in
    # what the request speaks.
    cdef bint equip(self, Exchange exchange, Scan *scan, Route route, Pool pool) noexcept
    cdef void start(self, Exchange exchange, Scan *scan) noexcept
    # The rest of `start`, once the exchange's turn has come by the rate limit.
    cdef void enter(self, Exchange exchange, Scan *scan) noexcept
    # The rest of that, once it is known who the exchange is from.
    cdef void proceed(self, Exchange exchange, Scan *scan) noexcept
    # The rest of that, once its turn has come by a rate limit of identities.
    cdef void settle(self, Exchange exchange, Scan *scan) noexcept
