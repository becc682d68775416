"""A listening socket in one worker: see listener.pxd.

Every worker watches the same socket, which the master made: a worker's death closes no port and loses no queued
connection.
"""

import logging

from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPROTO, errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memset, strerror
from posix.unistd cimport close
from lb.failure cimport FAIL_DENIED, FAIL_NONE, FAIL_SOURCE_LIMIT, failure_of, tg_failure
from lb.shared.atomics cimport tg_fence_full
from lb.http.head cimport H_UPGRADE, Field, Scan, same_name
from lb.net.ip cimport AF_INET, AF_INET6, IP_TEXT, Networks, ip_format, ip_parse, ip_set, tg_ip
from lb.net.keepalive cimport keepalive_of, keepalive_set
from lb.net.poller cimport Poller, Source
from lb.shared.segment cimport Segment, tg_add, tg_get
from lb.shared.segment_words cimport LISTENER_CONNECTIONS, LISTENER_REJECTED, SERIES_FINISHED, SERIES_STARTED
from lb.shared.source_counts cimport SharedSources
from lb.proxy.routing.error_pages cimport error_pages
from lb.proxy.accept.source_guard cimport guard_of
from lb.proxy.accept.source_limits cimport Sources
from lb.net.tls.session cimport Tls, new_server_tls
from lb.net.tls.context cimport ServerContext
from lb.proxy.routing.headers.forwarded cimport Forwarding
from lb.proxy.routing.normalize cimport normalize_flags
from lb.proxy.client.body_rate cimport body_rate_quota
from lb.proxy.exchange.explain.sampler cimport Sampler
from lb.telemetry.accesslog cimport (
    A_CLIENT, A_HOST, A_LISTENER, A_METHOD, A_REASON, AccessLog, set_object, set_text, tg_access, wall_ns,
)

from lb.shared.hashing import hash64_bytes

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<sys/socket.h>" nogil:
    ctypedef uint32_t socklen_t
    struct sockaddr:
        unsigned short sa_family
    struct sockaddr_storage:
        unsigned short ss_family
    enum:
        SOCK_NONBLOCK
        SOCK_CLOEXEC
    int setsockopt(int fd, int level, int option, const void *value, socklen_t size)

cdef extern from *:
    """
    #include <sys/socket.h>
    extern int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags);
    """
    int accept4(int fd, sockaddr *address, socklen_t *length, int flags) nogil

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        pass
    struct sockaddr_in:
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        uint16_t sin6_port
        in6_addr sin6_addr
    enum:
        IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        TCP_NODELAY

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t ntohs(uint16_t value)

log = logging.getLogger("tidegate.listener")

cdef enum:
    ACCEPTS = 64                      # at once, so that a flood of connections does not starve those that are open
    BACK_OFF_NS = 100_000_000
    COMPLAIN_NS = 10_000_000_000
    SKIPS = 64                        # looks at a connection before it is taken although others have fewer
    TURNOVER_NS = 20_000_000


# Of this worker, over all listeners: each may need a descriptor towards an endpoint as well
# (lb.config.checks.descriptors).
cdef long long held = 0
cdef long long most_held = 1 << 62


def limit_connections(long long most):
    """Most client connections that this process holds at a time; further ones wait in the queues of the sockets."""
    global most_held
    most_held = most


def network_of_plan(plan):
    """The bits of IPv4 and of IPv6 addresses by which a ListenerPlan counts. A listener counts by others only anew: its
    connections leave by the network that they came by."""
    return plan.sources.ipv4_prefix, plan.sources.ipv6_prefix


def sources_scope(plan):
    """What tells a ListenerPlan's networks from those of others in the table of all workers."""
    return hash64_bytes(b"%b/%d/%d" % (plan.name.encode(), *network_of_plan(plan)))


cdef class Acceptor:

    cdef void accepted(self, Listener listener, int fd, const char *ip, int ip_length, int port, bint unix) noexcept:
        pass


cdef class Listener(Source):
    """`plan` is a ListenerPlan; `table` its RouteTable (http), Pool or Split (tcp), or SniTable (tls). `connections` is
    the worker's set of them, `tls` what secures them, or None. `sniffer` is to be set before the start."""

    def __init__(self, Poller poller, plan, Segment segment, table, Acceptor factory, set connections,
                 AccessLog access, ServerContext tls=None):
        self.poller = poller
        self.factory = factory
        self.connections = connections
        self.access = access
        self.network = network_of_plan(plan)
        self.sources = Sources(*self.network)
        self.update(plan, segment, table, tls)

    def update(self, plan, Segment segment, table, ServerContext tls=None):
        """Take over a new plan; connections that are open follow it from their next request on."""
        proxy = plan.proxy_protocol
        self.name = plan.name
        self.protocol = plan.protocol
        self.table = table
        self.segment = segment
        self.series_index = plan.series
        self.series = segment.series(plan.series)
        self.pace = 0
        self.paced_at = self.poller.now
        self.paced_from = tg_get(&self.series[SERIES_FINISHED])
        self.header_timeout = plan.header_timeout_ns
        self.body_timeout = plan.body_timeout_ns
        self.body_quota = body_rate_quota(plan.min_body_rate, plan.body_timeout_ns)
        self.idle_timeout = plan.idle_timeout_ns
        self.send_timeout = plan.send_timeout_ns
        self.max_header_bytes = plan.max_header_bytes
        self.max_headers = plan.max_headers
        self.max_connections = plan.max_connections
        self.hop = Forwarding(plan)
        self.retry_buffer = plan.retry_buffer
        self.tls = tls
        self.handshake_timeout = plan.tls.handshake_timeout_ns if plan.tls is not None else 0
        self.normalize = normalize_flags(plan.normalize, plan.aliased_headers)
        self.sampler = None if plan.explain is None else Sampler(plan.explain)
        self.error_pages = error_pages(plan.error_pages)
        self.half_close_timeout = plan.half_close_timeout_ns
        self.max_per_source = plan.max_connections_per_source
        if self.max_per_source and self.sources.table is None:
            self.sources.share(SharedSources(segment), sources_scope(plan))
        elif not self.max_per_source:
            self.sources.withdraw()
        self.guard = guard_of(plan, segment)
        self.reads_hello = plan.protocol == "tls"
        self.sniffs = self.reads_hello or proxy is not None
        self.proxy_from = None if proxy is None else Networks(proxy.networks)
        self.proxy_unix = proxy is not None and proxy.unix
        self.proxy_required = proxy is not None and proxy.required
        self.proxy_timeout = 0 if proxy is None else proxy.timeout_ns
        self.upgrades = tuple(name.encode() for name in plan.upgrades)
        self.upgrade_idle_timeout = plan.upgrade_idle_timeout_ns
        self.update_http2(plan.http2, plan.tls is None or "h2" in plan.tls.alpn)
        self.on_path = plan.bind.startswith("unix:")
        self.keepalive = keepalive_of(plan.keepalive)
        if self.fd >= 0:
            self.keep_alive()

    def update_http2(self, plan, offered):
        self.http2.enabled = plan.enabled and offered
        self.http2.options.stream_window = plan.stream_window
        self.http2.options.connection_window = plan.connection_window
        self.http2.options.max_streams = plan.max_streams
        # Counted with 32 bytes for each field (RFC 9113 section 6.5.2), which HTTP/1.1's head has not.
        self.http2.options.header_list = <unsigned int>self.max_header_bytes + 32 * <unsigned int>self.max_headers
        self.http2.options.max_fields = <unsigned int>self.max_headers + 4      # with the pseudo-header fields
        self.http2.options.connect_protocol = b"websocket" in self.upgrades
        self.http2.max_age = plan.max_age_ns
        self.http2.control_rate = plan.control_rate
        self.http2.reset_rate = plan.reset_rate

    def start(self, int fd):
        """Accept from `fd`, which now belongs to the listener. Raises OSError."""
        cdef int one = 1
        # Connections have it from their listening socket. A Unix socket has no such thing; else it costs latency only.
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
        self.poller.add(self, fd, True)
        self.keep_alive()

    def halt(self):
        """Accept no more; connections that are open go on."""
        self.draining = True
        self.poller.remove(self)

    cdef bint may_upgrade(self, Scan *scan) noexcept:
        cdef const Field *field
        cdef object name
        if scan.websocket:
            return True                           # the connection said that it serves it
        field = &scan.fields[scan.first[H_UPGRADE]]
        for name in self.upgrades:
            if same_name(field.value, field.value_length, <const char *><bytes>name):
                return True
        return False

    cdef void keep_alive(self) noexcept:
        cdef int failed = 0 if self.on_path else keepalive_set(self.fd, &self.keepalive)
        if failed:
            log.warning("listener %s: tcp_keepalive: %s", self.name, strerror(failed).decode())

    cdef void on_ready(self, uint32_t events) noexcept:
        self.accept_all()

    cdef Tls new_tls(self):
        cdef Tls tls = new_server_tls(self.tls, self.series, self.poller.now + self.handshake_timeout)
        if tls is None:
            raise MemoryError
        return tls

    cdef bint has_too_many(self) noexcept:
        """Whether another worker has fewer connections of this listener. All workers wake for a connection, and a fast
        one would take a whole burst: it leaves some to the others, for as long as they are quick to take them."""
        cdef unsigned int worker
        cdef uint64_t *words
        cdef uint64_t mine = tg_get(&self.series[SERIES_STARTED]) - tg_get(&self.series[SERIES_FINISHED])
        # Lasting connections that come among short ones would gather without the second bound.
        cdef uint64_t lead = min(self.harmless_lead(), mine / 2 + 4)
        for worker in range(self.segment.header.workers):
            words = self.segment.series_of(<int>worker, self.series_index)
            if tg_get(&words[SERIES_STARTED]) - tg_get(&words[SERIES_FINISHED]) + lead < mine:
                return True
        return False

    cdef uint64_t harmless_lead(self) noexcept:
        """Connections more than another worker has that are gone in TURNOVER_NS, at the pace at which this worker's
        ended lately. To leave short connections to others costs more than a lead that does not last."""
        cdef uint64_t finished, elapsed = self.poller.now - self.paced_at
        if elapsed >= TURNOVER_NS:
            finished = tg_get(&self.series[SERIES_FINISHED])
            self.pace = (finished - self.paced_from) * <uint64_t>TURNOVER_NS / elapsed
            self.paced_from = finished
            self.paced_at = self.poller.now
        return self.pace

    cdef uint64_t open(self) noexcept:
        cdef uint64_t total = 0
        cdef unsigned int worker
        cdef uint64_t *words
        for worker in range(self.segment.header.workers):
            words = self.segment.series_of(<int>worker, self.series_index)
            total += tg_get(&words[SERIES_STARTED]) - tg_get(&words[SERIES_FINISHED])
        return total

    cdef bint claim(self) noexcept:
        global held
        if held >= most_held:
            self.complain(b"the limit of open files leaves room for no more connections (LimitNOFILE, ulimit -n)")
        if held >= most_held or self.open() >= self.max_connections:
            self.full = True
            self.stop()
            # The place that becomes free may be another worker's, or one of a worker that has died.
            self.poller.arm(self, self.poller.now + BACK_OFF_NS)
            return False
        tg_add(&self.series[SERIES_STARTED], 1)
        held += 1
        if self.segment.header.workers > 1:
            # Of two that claim the last place at once, at least one sees the other: the event comes again.
            tg_fence_full()
            if self.open() > self.max_connections:
                self.unclaim()
                return False
        return True

    cdef bint take_over(self) noexcept:
        global held
        if self.open() >= self.max_connections:
            return False
        tg_add(&self.series[SERIES_STARTED], 1)
        held += 1
        if self.segment.header.workers > 1:
            tg_fence_full()
            if self.open() > self.max_connections:
                self.unclaim()
                return False
        tg_add(&self.series[LISTENER_CONNECTIONS], 1)
        return True

    cdef void unclaim(self) noexcept:
        global held
        held -= 1
        tg_add(&self.series[SERIES_STARTED], <uint64_t>-1)

    cdef void accept_all(self) noexcept:
        cdef sockaddr_storage address
        cdef socklen_t length
        cdef int fd, _turn, port, ip_length
        cdef char ip[IP_TEXT]
        cdef tg_ip peer
        cdef bint unix
        for _turn in range(ACCEPTS):
            if self.segment.header.workers > 1 and self.skips < SKIPS and self.has_too_many():
                self.skips += 1
                sched_yield()                     # they may wait for this very CPU
                return
            self.skips = 0
            if not self.claim():
                return
            length = sizeof(address)
            fd = accept4(self.fd, <sockaddr *>&address, &length, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd < 0:
                self.unclaim()
                if errno in (EAGAIN, 0):
                    return
                if errno in (EINTR, ECONNABORTED, EPROTO):
                    continue
                if errno in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
                    # The queue keeps them; going on at once would only burn the CPU that could free something.
                    self.complain(strerror(errno))
                    self.stop()
                    self.poller.arm(self, self.poller.now + BACK_OFF_NS)
                    return
                log.error("listener %s: accept: %s", self.name, strerror(errno).decode())
                return
            memset(&peer, 0, sizeof(peer))
            port = 0
            unix = False
            if address.ss_family == AF_INET:
                ip_set(&peer, AF_INET, &(<sockaddr_in *>&address).sin_addr)
                port = ntohs((<sockaddr_in *>&address).sin_port)
            elif address.ss_family == AF_INET6:
                ip_set(&peer, AF_INET6, &(<sockaddr_in6 *>&address).sin6_addr)
                port = ntohs((<sockaddr_in6 *>&address).sin6_port)
            else:
                unix = True
            tg_add(&self.series[LISTENER_CONNECTIONS], 1)
            ip_length = ip_format(&peer, ip)
            if self.sniffs:
                (<Acceptor>self.sniffer).accepted(self, fd, ip, ip_length, port, unix)
            elif self.admit(ip, ip_length, port):
                (<Acceptor>self.factory).accepted(self, fd, ip, ip_length, port, unix)
            else:
                close(fd)
                self.uncounted_closed()

    cdef bint admit(self, const char *ip, int ip_length, int port) noexcept:
        cdef tg_ip address
        cdef int kind = FAIL_NONE
        if self.guard is not None:
            ip_parse(&address, ip, <size_t>ip_length)     # a Unix socket has none: then it is that of family 0
            kind = self.guard.judge(&address, self.poller.now)
        if kind == FAIL_NONE:
            if self.sources.enter(ip, <size_t>ip_length, self.max_per_source):
                return True
            kind = FAIL_SOURCE_LIMIT
            self.over_limit += 1
        elif kind == FAIL_DENIED:
            self.denied += 1
        else:
            self.over_rate += 1
        self.log_refusal(kind, ip, ip_length, port, NULL, 0)
        return False

    cdef void log_refusal(self, int kind, const char *ip, int ip_length, int port, const char *host, size_t n) noexcept:
        cdef tg_access *record
        cdef const tg_failure *failure = failure_of(kind)
        tg_add(&self.series[LISTENER_REJECTED], 1)
        if not self.access.enabled:
            return
        record = self.access.begin()
        if record == NULL:
            return
        record.wall_ns = wall_ns()
        record.port = <uint16_t>port
        set_text(record, A_CLIENT, ip, <size_t>ip_length)
        set_text(record, A_METHOD, b"TLS" if self.reads_hello else b"TCP", 3)
        set_text(record, A_HOST, host, n)
        set_object(record, A_LISTENER, self.name)
        set_text(record, A_REASON, failure.reason, <size_t>failure.reason_length)
        self.access.commit()

    cdef void stop(self) noexcept:
        """Stop watching for a while (the limit is reached, or resources are out)."""
        if not self.paused and self.fd >= 0:
            self.paused = True
            tg_add(&self.series[LISTENER_REJECTED], 1)
            self.poller.watch(self, False)

    cdef void complain(self, const char *what) noexcept:
        """Says what resources are out of, and not again at each try while they are."""
        if not self.complained or self.poller.now - self.complained >= COMPLAIN_NS:
            self.complained = self.poller.now
            log.warning("listener %s: accept: %s; backing off", self.name, what.decode())

    cdef void resume(self) noexcept:
        if self.paused and self.fd >= 0:
            self.paused = self.full = False
            self.poller.watch(self, True)

    cdef void on_timer(self) noexcept:
        if self.open() < self.max_connections and held < most_held:
            self.resume()
        elif self.paused and self.fd >= 0:
            self.full = True
            self.poller.arm(self, self.poller.now + BACK_OFF_NS)

    cdef void closed_one(self, const char *ip, size_t ip_length) noexcept:
        self.sources.leave(ip, ip_length)
        self.uncounted_closed()

    cdef void uncounted_closed(self) noexcept:
        global held
        held -= 1
        tg_add(&self.series[SERIES_FINISHED], 1)
        if self.full and self.open() < self.max_connections and held < most_held:
            self.resume()
