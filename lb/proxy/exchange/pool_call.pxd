"""A gRPC call whose answer is a whole pool's: its request is gathered, and the master asks the endpoints."""

from lb.http.head cimport Scan
from lb.net.buffer cimport tg_buffer
from lb.proxy.exchange.exchange cimport BodySource, Exchange
from lb.proxy.exchange.grpc_web_codec cimport WebCodec
from lb.proxy.exchange.question cimport Question
from lb.upstream.pool cimport Pool


cdef class PoolCall(BodySource):
    cdef object ask                   # lb.control.workers.worker.Ask
    cdef bytes path
    cdef str method                   # its last part
    cdef bint changes                 # model servers: it may take as long as they do
    cdef WebCodec web                 # None: the client speaks gRPC
    cdef tg_buffer body               # of the request, gRPC's prefix included
    cdef Question question            # None: it has not been put

    cdef void keep(self, Exchange exchange, const char *data, size_t size) noexcept
    cdef void put(self, Exchange exchange) noexcept
    cdef void tell_health(self, Exchange exchange) noexcept


# Whether the request's path is one of those calls to the pool; `allowed` has the kinds of server calls
# (lb.inference.server_calls.Kind) that its route lets clients make.
cdef bint asks_pool(const Scan *scan, Pool pool, int allowed) noexcept
# Whether probes of the pool's endpoints are answered for them: they neither keep a model server nor wait for one.
cdef bint answers_probes(Pool pool) noexcept
# Its body source.
cdef PoolCall new_pool_call(object ask, Exchange exchange, const Scan *scan)
