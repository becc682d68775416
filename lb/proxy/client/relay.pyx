"""A client in front of another: see relay.pxd."""

from libc.string cimport memcpy
from lb.http.head cimport Scan
from lb.net.arena cimport View
from lb.net.buffer cimport tg_buffer
from lb.net.stream cimport iovec
from lb.proxy.client.client cimport Client
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.routing.headers.forwarded cimport tg_hop_cache


cdef class Relay(Client):

    cdef void stand_before(self, Exchange exchange) noexcept:
        cdef Client client = exchange.client
        self.real = client
        self.exchange = exchange
        exchange.client = self
        self.listener = client.listener
        self.poller = client.poller
        self.tls = client.tls                 # what the access log says
        memcpy(self.ip, client.ip, sizeof(self.ip))
        self.ip_length = client.ip_length
        self.port = client.port

    cdef Client origin(self):
        return self.real.origin()

    cdef tg_hop_cache *hop_cache(self) noexcept:
        return self.real.hop_cache()

    cdef const char *scheme(self) noexcept:
        return self.real.scheme()

    cdef void respond(self, Scan *scan, const tg_buffer *extra, bint last) noexcept:
        self.real.respond(scan, extra, last)

    cdef void respond_whole(self, int status, const tg_buffer *head, const iovec *parts, int count) noexcept:
        self.exchange = None
        self.real.respond_whole(status, head, parts, count)

    cdef bint respond_own_head(self, int status, const tg_buffer *head, size_t size) noexcept:
        return self.real.respond_own_head(status, head, size)

    cdef void respond_body(self, const iovec *parts, int count) noexcept:
        self.real.respond_body(parts, count)

    cdef bint respond_view(self, View view) noexcept:
        return False                          # the bytes come by `respond_body` then

    cdef void respond_trailers(self, Scan *scan) noexcept:
        self.real.respond_trailers(scan)

    cdef void respond_upgrade(self, Scan *scan) noexcept:
        self.real.respond_upgrade(scan)

    cdef void respond_end(self) noexcept:
        self.exchange = None
        self.real.respond_end()

    cdef void abort(self) noexcept:
        self.exchange = None
        self.real.abort()

    cdef bint may_follow(self) noexcept:
        return self.real.may_follow()

    cdef bint put_off(self) noexcept:
        return self.real.put_off()

    cdef void resume_request(self) noexcept:
        self.real.resume_request()

    cdef void answered_early(self) noexcept:
        self.real.answered_early()

    cdef void send_continue(self) noexcept:
        self.real.send_continue()

    cdef bint outlives(self) noexcept:
        if self.real.outlives():
            return True
        self.exchange = None                  # nobody is told of its end
        return False

    cdef bint covers(self) noexcept:
        return self.real.covers()

    cdef bint has_left(self) noexcept:
        return self.real.has_left()

    cdef size_t backlog(self) noexcept:
        return self.real.backlog()

    cdef void drained(self) noexcept:
        self.real.drained()
