"""A listening socket in one worker, and what its plan says of the connections it accepts."""

from libc.stdint cimport uint32_t, uint64_t
from lb.http.head cimport Scan
from lb.http.http2.session cimport h2_options
from lb.net.ip cimport Networks
from lb.net.keepalive cimport tg_keepalive
from lb.net.poller cimport Poller, Source
from lb.shared.segment cimport Segment
from lb.proxy.routing.error_pages cimport ErrorPages
from lb.proxy.accept.source_guard cimport SourceGuard
from lb.proxy.accept.source_limits cimport Sources
from lb.net.tls.session cimport Tls
from lb.net.tls.context cimport ServerContext
from lb.proxy.routing.headers.forwarded cimport Forwarding
from lb.proxy.exchange.explain.sampler cimport Sampler
from lb.telemetry.accesslog cimport AccessLog


cdef struct Http2Limits:
    bint enabled
    h2_options options
    uint64_t max_age                  # ns; 0 = none
    uint64_t control_rate             # per second
    uint64_t reset_rate


cdef class Listener(Source):
    cdef readonly str name
    cdef readonly str protocol
    cdef object table                 # RouteTable (http), Pool or Split (tcp), or SniTable (tls)
    cdef object factory               # makes the connection: factory.accepted(listener, fd)
    cdef AccessLog access
    cdef object connections           # the worker's set of all client connections
    cdef uint64_t *series
    cdef Segment segment
    cdef unsigned int series_index
    cdef int skips                    # accepts left to less loaded workers in a row
    cdef uint64_t pace                # of this worker's connections, those that ended in TURNOVER_NS
    cdef uint64_t paced_at            # when that was counted (monotonic ns), and how many had ended by then
    cdef uint64_t paced_from
    cdef readonly uint64_t header_timeout
    cdef readonly uint64_t body_timeout
    cdef readonly uint64_t body_quota  # bytes that a body must bring within each body_timeout; 0 = any
    cdef readonly uint64_t idle_timeout
    cdef readonly uint64_t send_timeout
    cdef readonly size_t max_header_bytes
    cdef readonly int max_headers
    cdef readonly uint64_t max_connections   # over all workers
    cdef readonly Forwarding hop
    cdef readonly size_t retry_buffer
    cdef Http2Limits http2
    cdef tuple upgrades               # protocols that requests may change to, in lower case
    cdef readonly uint64_t upgrade_idle_timeout
    cdef readonly int normalize       # flags of lb.proxy.routing.normalize
    cdef Sampler sampler              # of requests whose choice is explained; None = none is
    cdef readonly ServerContext tls   # what connections are secured with; None: nothing
    cdef uint64_t handshake_timeout
    cdef bint paused
    cdef bint full                    # because of max_connections
    cdef uint64_t complained          # when it was last said that resources are out; 0 = never
    cdef readonly bint draining
    # What is decided before the protocol begins (lb.proxy.accept.first_bytes), and what that said of the connection
    # which is just being handed over.
    cdef public object sniffer        # the SniffingAcceptor
    cdef object first_bytes           # its FirstBytes, or None
    cdef bint sniffs
    cdef bint reads_hello             # a ClientHello says where connections go
    cdef Networks proxy_from          # who may send a PROXY header; None = nobody is asked
    cdef bint proxy_unix
    cdef bint proxy_required
    cdef uint64_t proxy_timeout
    cdef readonly uint64_t half_close_timeout   # 0 = as idle_timeout
    cdef uint32_t max_per_source      # over all workers; 0 = no limit
    cdef readonly Sources sources     # open connections by network
    cdef tg_keepalive keepalive
    cdef ErrorPages error_pages       # behind those of routes; None: there are none
    cdef bint on_path                 # it is a Unix socket
    cdef SourceGuard guard            # None: everybody may connect, as often as they like
    cdef readonly tuple network       # bits of IPv4 and IPv6 addresses by which `sources` counts
    cdef readonly uint64_t over_limit   # connections closed because their network had enough
    cdef readonly uint64_t over_rate    # because it had come too often
    cdef readonly uint64_t denied       # because it may not connect

    # Whether the protocol that a request asks to change to is one of `upgrades`.
    cdef bint may_upgrade(self, Scan *scan) noexcept
    # TLS for a connection that was just accepted; raises MemoryError. Not for listeners without TLS.
    cdef Tls new_tls(self)
    # Sets the listening socket up, from which new connections have it.
    cdef void keep_alive(self) noexcept
    cdef void accept_all(self) noexcept
    cdef bint has_too_many(self) noexcept
    cdef uint64_t harmless_lead(self) noexcept
    # Open connections of the listener in all workers.
    cdef uint64_t open(self) noexcept
    # A place for one more, which is counted: to be given back when none comes. False: there is none now.
    cdef bint claim(self) noexcept
    # A place for a connection that another listener has accepted; that one gives its own back. False: there is none.
    cdef bint take_over(self) noexcept
    cdef void unclaim(self) noexcept
    cdef void stop(self) noexcept
    cdef void complain(self, const char *what) noexcept
    cdef void resume(self) noexcept
    # The client is known. True: it is counted, until `closed_one`. False: it may not connect now; that is counted and
    # logged, and its connection is to be closed.
    cdef bint admit(self, const char *ip, int ip_length, int port) noexcept
    cdef void log_refusal(self, int kind, const char *ip, int ip_length, int port, const char *host, size_t n) noexcept
    # To be called once for every connection that was admitted, with the text that it was admitted with.
    cdef void closed_one(self, const char *ip, size_t ip_length) noexcept
    # The same for one that was not.
    cdef void uncounted_closed(self) noexcept


cdef class Acceptor:
    """Makes connections of a protocol: subclassed by lb.proxy.accept.http_acceptor and lb.proxy.tcp.session."""
    cdef void accepted(self, Listener listener, int fd, const char *ip, int ip_length, int port, bint unix) noexcept
