"""The first bytes of a connection: see first_bytes.pxd."""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t
from libc.string cimport memcpy
from posix.unistd cimport close
from lb.failure cimport (
    FAIL_BAD_CLIENT_HELLO, FAIL_FIRST_BYTES_TIMEOUT, FAIL_LISTENER_FULL, FAIL_NOT_TLS, FAIL_NO_ROUTE,
    FAIL_PROXY_MALFORMED, FAIL_PROXY_MISSING, FAIL_PROXY_UNTRUSTED, failure_of,
)
from lb.net.buffer cimport tg_buffer_append, tg_buffer_free
from lb.net.tls.client_hello cimport HELLO_MORE, HELLO_NOT_TLS, HELLO_RAW, hello_parse, tg_hello
from lb.net.ip cimport ip_format, ip_parse, ip_set, tg_ip
from lb.net.poller cimport READ_TURNS, Poller
from lb.net.proxy_header cimport PROXY_MAX, PROXY_MORE, PROXY_NONE, proxy_parse, tg_proxy
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport LISTENER_TIMEOUTS
from lb.net.states cimport states_of, tg_move, tg_state, tg_states
from lb.net.stream cimport (
    EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLRDHUP, IO_AGAIN, IO_ERROR, Stream,
)
from lb.proxy.accept.listener cimport Acceptor, Listener
from lb.proxy.accept.sni cimport SniRule, SniTable
from lb.proxy.routing.split cimport pool_for

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_PEEK
        MSG_DONTWAIT
    ssize_t recv(int fd, void *data, size_t size, int flags)

cdef enum:
    LINGER_NS = 1_000_000_000
    # Alerts: RFC 8446 section 6.2
    DECODE_ERROR = 50
    INTERNAL_ERROR = 80
    UNRECOGNIZED_NAME = 112

# The kinds of failures (lb.failure), by R_….
cdef int[R_COUNT] REFUSED = [
    FAIL_PROXY_UNTRUSTED, FAIL_PROXY_MISSING, FAIL_PROXY_MALFORMED, FAIL_FIRST_BYTES_TIMEOUT, FAIL_NOT_TLS,
    FAIL_BAD_CLIENT_HELLO, FAIL_NO_ROUTE, FAIL_LISTENER_FULL,
]


# Which state may follow which.
cdef tg_states TABLE
TABLE.machine = b"connection that has not said what it is"
tg_state(&TABLE, b"header", 1 << P_HELLO | 1 << P_DONE)
tg_state(&TABLE, b"hello", 1 << P_LINGER | 1 << P_DONE)
tg_state(&TABLE, b"linger", 1 << P_DONE)
tg_state(&TABLE, b"done", 0)
STATES = states_of(&TABLE)


cdef class FirstBytes:

    def __dealloc__(self):
        tg_buffer_free(&self.header)


cdef class SniffingAcceptor(Acceptor):
    """Looks at a connection's first bytes and then makes what its listener serves."""

    def __init__(self, Poller poller not None):
        self.poller = poller

    cdef void accepted(self, Listener listener, int fd, const char *ip, int ip_length, int port, bint unix) noexcept:
        cdef Sniffer sniffer = Sniffer.__new__(Sniffer)
        sniffer.poller = self.poller
        sniffer.home = self
        sniffer.listener = listener
        sniffer.first_bytes = FirstBytes.__new__(FirstBytes)
        sniffer.sock = fd
        memcpy(sniffer.ip, ip, <size_t>ip_length)
        sniffer.ip_length = ip_length
        sniffer.port = port
        sniffer.by_path = unix
        if listener.proxy_from is None:
            sniffer.move(P_HELLO)
            if not sniffer.admit():
                return
            sniffer.until = self.poller.now + listener.header_timeout
        else:
            sniffer.until = self.poller.now + listener.proxy_timeout
            if unix:
                sniffer.trusted = listener.proxy_unix
            else:
                sniffer.trusted = listener.proxy_from.contains_text(ip, <size_t>ip_length)
            if listener.proxy_required and not sniffer.trusted:
                sniffer.refuse(R_UNTRUSTED)
                return
        sniffer.look()                # what is there already needs no registration
        if sniffer.state > P_HELLO:
            return
        if sniffer.register(fd) == IO_ERROR:
            sniffer.sock = -1         # closed already
            sniffer.drop()
            return
        (<set>listener.connections).add(sniffer)
        self.poller.arm(sniffer, sniffer.until)

    def stats(self):
        """Connections refused so far, by reason."""
        cdef int i
        found = {}
        for i in range(R_COUNT):
            found[f"refused_{failure_of(REFUSED[i]).reason.decode()}"] = self.refused[i]
        return found


cdef class Sniffer(Stream):
    """A connection that has not said yet what it is; kept alive by its listener's set of connections."""

    def __cinit__(self):
        self.sock = -1

    cdef void move(self, int state) noexcept:
        tg_move(&TABLE, &self.state, state)

    # Looking.

    cdef void on_ready(self, uint32_t events) noexcept:
        if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            self.ended = True
        if self.state == P_LINGER:
            self.read_away()
        elif events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            self.look()

    cdef void look(self) noexcept:
        if self.state == P_HEADER:
            self.look_for_header()
        if self.state == P_HELLO:
            self.look_for_hello()

    cdef Py_ssize_t peek(self, size_t size) noexcept:
        """What has come, in the worker's buffer: >0 bytes, 0 = the peer left without a word, IO_AGAIN, IO_ERROR."""
        cdef ssize_t n
        while True:
            n = recv(self.sock, self.poller.scratch, size, MSG_PEEK | MSG_DONTWAIT)
            if n > 0:
                self.heard = True
            if n >= 0:
                return n
            if errno == EINTR:
                continue
            return IO_AGAIN if errno == EAGAIN else IO_ERROR

    cdef int consume(self, size_t size) noexcept:
        """Take out the bytes that were looked at; they stay in the worker's buffer, too. 0 or -1."""
        cdef size_t done = 0
        cdef ssize_t n
        while done < size:
            n = recv(self.sock, self.poller.scratch + done, size - done, MSG_DONTWAIT)
            if n > 0:
                done += <size_t>n
            elif n == 0 or errno != EINTR:
                return -1
        return 0

    cdef void look_for_header(self) noexcept:
        cdef tg_proxy header
        cdef Py_ssize_t size
        cdef Py_ssize_t n = self.peek(PROXY_MAX)
        if n == IO_AGAIN:
            return
        if n <= 0:
            self.drop()                           # a check of our health, perhaps: nothing to count
            return
        size = proxy_parse(<const unsigned char *>self.poller.scratch, <size_t>n, &header)
        if size == PROXY_MORE:
            if self.ended:
                self.refuse(R_MALFORMED)
        elif size == PROXY_NONE:
            if self.listener.proxy_required:
                self.refuse(R_MISSING)
            else:
                self.header_done()
        elif not self.trusted:
            self.refuse(R_UNTRUSTED)
        elif size < 0:
            self.refuse(R_MALFORMED)
        elif self.consume(<size_t>size) < 0 or self.believe(&header, <size_t>size) < 0:
            self.drop()
        else:
            self.header_done()

    cdef int believe(self, tg_proxy *header, size_t size) noexcept:
        """The client is whom the header names; the header is in the worker's buffer. 0, or -1 without memory."""
        cdef tg_ip ip
        if header.ends.family == 0:
            return 0                              # LOCAL or unknown: the peer itself counts (section 2.2)
        ip_set(&ip, header.ends.family, header.ends.source)
        self.ip_length = ip_format(&ip, self.ip)
        self.port = header.ends.source_port
        self.by_path = False
        self.first_bytes.proxied = True
        self.first_bytes.ends = header.ends
        if header.tlvs.all_length:
            return tg_buffer_append(&self.first_bytes.header, self.poller.scratch, size)
        return 0

    cdef bint admit(self) noexcept:
        """The client is known. False: it may not connect, and is gone."""
        self.admitted = self.listener.admit(self.ip, self.ip_length, self.port)
        if not self.admitted:
            self.drop()
        return self.admitted

    cdef void header_done(self) noexcept:
        if not self.admit():
            return
        if not self.listener.reads_hello:
            self.hand_over()
            return
        self.move(P_HELLO)
        self.until = self.poller.now + self.listener.header_timeout
        if self.fd >= 0:
            self.poller.arm(self, self.until)

    cdef void look_for_hello(self) noexcept:
        cdef tg_hello hello
        cdef tg_ip ip
        cdef SniRule rule
        cdef Listener target = None
        cdef int found
        cdef Py_ssize_t n = self.peek(HELLO_RAW)
        if n == IO_AGAIN:
            return
        if n <= 0:
            self.drop()
            return
        found = hello_parse(<const unsigned char *>self.poller.scratch, <size_t>n, self.home.work, &hello)
        if found == HELLO_MORE:
            if self.ended:
                self.refuse(R_HELLO)
            return
        if found == HELLO_NOT_TLS:
            self.refuse(R_NOT_TLS)
            return
        if found < 0:
            self.refuse_with_alert(R_HELLO, DECODE_ERROR)
            return
        self.first_bytes.sni_length = hello.sni_length
        memcpy(self.first_bytes.sni, hello.sni, hello.sni_length)
        ip_parse(&ip, self.ip, <size_t>self.ip_length)   # a Unix socket has none: then it is that of family 0
        rule = (<SniTable>self.listener.table).find(&hello, &ip)
        if rule is not None and rule.table is not None:
            self.first_bytes.terminate = rule.terminate
            self.first_bytes.pool = pool_for(rule.table, self.ip, <size_t>self.ip_length)
            self.hand_over()
            return
        if rule is not None:
            target = <Listener>self.home.listeners.get(rule.listener)
        if target is not None:
            self.pass_to(target)
        else:                                     # also where a reload has removed both listeners meanwhile
            self.refuse_with_alert(R_NO_ROUTE, UNRECOGNIZED_NAME)

    # The end.

    cdef void pass_to(self, Listener target) noexcept:
        """The connection is another listener's from now on, with a place among that one's."""
        if not target.take_over():
            self.refuse_with_alert(R_FULL, INTERNAL_ERROR)
            return
        self.listener.closed_one(self.ip, <size_t>self.ip_length)
        self.listener = target                    # all listeners have one set of connections
        if self.admit():
            self.hand_over()

    cdef void hand_over(self) noexcept:
        cdef int fd = self.sock
        cdef Listener listener = self.listener
        self.move(P_DONE)
        self.sock = -1
        if self.fd >= 0:
            (<set>listener.connections).discard(self)
            fd = self.poller.detach(self)
            if fd < 0:
                listener.closed_one(self.ip, <size_t>self.ip_length)
                return
        listener.first_bytes = self.first_bytes
        (<Acceptor>listener.factory).accepted(listener, fd, self.ip, self.ip_length, self.port, self.by_path)
        listener.first_bytes = None

    cdef void count_refusal(self, int reason) noexcept:
        cdef Listener listener = self.listener
        self.home.refused[reason] += 1
        if reason == R_SLOW:
            tg_add(&listener.series[LISTENER_TIMEOUTS], 1)
        listener.log_refusal(
            REFUSED[reason], self.ip, self.ip_length, self.port, self.first_bytes.sni, self.first_bytes.sni_length)

    cdef void refuse(self, int reason) noexcept:
        self.count_refusal(reason)
        self.drop()

    cdef void refuse_with_alert(self, int reason, int description) noexcept:
        """Closing with unread bytes would reset the connection and could take the alert with it: the ClientHello is
        read away, and the client gets a moment to close first."""
        cdef unsigned char record[7]
        self.count_refusal(reason)
        if self.fd < 0:
            if self.register(self.sock) == IO_ERROR:
                self.sock = -1
                self.drop()
                return
            (<set>self.listener.connections).add(self)
        self.move(P_LINGER)
        record[0] = 21                            # alert, TLS 1.2 on the wire (RFC 8446 section 5.1)
        record[1] = 3
        record[2] = 3
        record[3] = 0
        record[4] = 2
        record[5] = 2                             # fatal
        record[6] = <unsigned char>description
        if self.queue(record, 7) < 0 or self.push() == IO_ERROR:
            self.drop()
            return
        self.shutdown_write()
        self.poller.arm(self, self.poller.now + LINGER_NS)
        self.read_away()

    cdef void read_away(self) noexcept:
        cdef Py_ssize_t n
        cdef int _turn
        for _turn in range(READ_TURNS):
            n = self.receive(self.poller.scratch, self.poller.scratch_size)
            if n == IO_AGAIN:
                return
            if n <= 0:
                break
        self.drop()                               # it has closed, or sends without end

    cdef void drop(self) noexcept:
        if self.state == P_DONE:
            return
        self.move(P_DONE)
        (<set>self.listener.connections).discard(self)
        if self.fd >= 0:
            self.poller.remove(self)
        elif self.sock >= 0:
            close(self.sock)
        self.sock = -1
        if self.admitted:
            self.listener.closed_one(self.ip, <size_t>self.ip_length)
        else:
            self.listener.uncounted_closed()

    cdef void on_timer(self) noexcept:
        if self.state == P_LINGER:
            self.drop()
        else:
            self.refuse(R_SLOW)

    # From Python.

    def close_if_idle(self):
        """Close when nothing has come yet; what has begun is awaited."""
        if not self.heard:
            self.drop()

    def finishing(self):
        """Whether it may still become an exchange or a session."""
        return self.state < P_LINGER

    def close(self):
        """Close at once."""
        self.drop()
