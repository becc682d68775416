"""From a request's head to its exchange: see admission.pxd."""

from libc.string cimport memchr
from lb.core.buffer cimport tg_buffer_append
from lb.core.http1 cimport H_EXPECT, Scan, has_token
from lb.core.poller cimport Poller, monotonic_ns
from lb.core.segment cimport TG_S_STARTED, tg_add
from lb.proxy.client cimport Client
from lb.proxy.exchange cimport Exchange
from lb.proxy.forward cimport ForwardExchange
from lb.proxy.forward_http2 cimport Http2Exchange
from lb.proxy.refusal cimport speaks_grpc
from lb.proxy.route cimport Route, RouteTable
from lb.upstream.pool cimport POOL_GRPC, POOL_HTTP, POOL_HTTP2, POOL_OIP

cdef enum:
    M_HEAD = 2                        # llhttp's number


cdef class Intake:
    """`new_infer()` makes the exchanges with pools that speak the Open Inference Protocol."""

    def __init__(self, Poller poller, new_infer):
        self.poller = poller
        self.new_infer = new_infer

    def drain(self):
        """From now on every answer is its connection's last."""
        self.draining = True

    def in_flight(self):
        return self.busy

    cdef Exchange admit(self, Client client, Scan *scan, const char *host, size_t host_length):
        cdef const char *query = <const char *>memchr(scan.target, 63, scan.target_length)
        cdef size_t path_length = scan.target_length if query == NULL else <size_t>(query - scan.target)
        cdef Route route
        cdef Exchange exchange
        cdef bint other_method = False
        route = (<RouteTable>client.listener.table).find(host, host_length, scan.target, path_length, scan.method,
                                                         &other_method)
        if route is None:
            if other_method:
                client.decline(405, "Method Not Allowed")
            else:
                client.decline(404, "Not Found")
            return None
        tg_add(&route.series[TG_S_STARTED], 1)
        exchange = self.new_exchange(client, scan, route.pool.protocol)
        if exchange is None:
            client.decline(415, f"the pool {route.pool.name} speaks gRPC only")
            return None
        exchange.started = monotonic_ns()
        exchange.client = client
        exchange.listener = client.listener
        exchange.route = route
        exchange.pool = route.pool
        exchange.tries_left = route.pool.retries
        exchange.method = scan.method
        exchange.http10 = scan.version == 10
        exchange.head_method = scan.method == M_HEAD
        exchange.request_complete = False
        if route.timeout:
            exchange.expires = exchange.started + route.timeout
            self.poller.arm(exchange, exchange.expires)
        if client.listener.access.enabled:
            tg_buffer_append(&exchange.target, host, host_length)
            exchange.host_length = host_length
            tg_buffer_append(&exchange.target, scan.target, scan.target_length)
        self.busy += 1
        return exchange

    cdef Exchange new_exchange(self, Client client, Scan *scan, int protocol):
        """None: the pool cannot be spoken to in what the request speaks."""
        cdef Exchange exchange
        cdef bint grpc = scan.version == 20 and speaks_grpc(scan)
        if protocol == POOL_HTTP:
            exchange = <Exchange>ForwardExchange.__new__(ForwardExchange)
        elif protocol == POOL_HTTP2 or grpc and (protocol == POOL_GRPC or protocol == POOL_OIP):
            exchange = <Exchange>Http2Exchange.__new__(Http2Exchange)
        elif protocol == POOL_OIP:
            exchange = <Exchange>self.new_infer()
        else:
            return None
        exchange.grpc = grpc
        return exchange

    cdef void start(self, Exchange exchange, Scan *scan) noexcept:
        if scan.has_length and scan.content_length > exchange.route.max_body:
            exchange.fail(413, b"body-too-large",
                          f"the request's body is over the limit of {exchange.route.max_body} bytes")
            return
        if not scan.complete and scan.version > 10 and scan.first[H_EXPECT] >= 0:
            if has_token(&scan.fields[scan.first[H_EXPECT]], b"100-continue"):
                exchange.client.send_continue()
        exchange.begin(scan)


cdef bint routing_host(const char *host, size_t *host_length) noexcept nogil:
    cdef size_t n = host_length[0], i
    cdef unsigned char c
    for i in range(n):
        c = <unsigned char>host[i]
        # No byte may make another host of it for somebody else; / ? # @ and backslash end, or begin, an authority.
        if c <= 32 or c >= 127 or c == 47 or c == 63 or c == 35 or c == 64 or c == 92:
            return False
    # The port plays no part in routing; an IPv6 literal's own colons stand in brackets.
    while n and host[n - 1] >= 48 and host[n - 1] <= 57:
        n -= 1
    if n and host[n - 1] == 58:
        host_length[0] = n - 1
    return True
