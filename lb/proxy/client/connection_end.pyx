"""How an HTTP/1.1 connection with a client ends: see connection_end.pxd."""

from lb.net.buffer cimport tg_buffer_consume, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.client.http1_answer cimport AnsweringConnection
from lb.proxy.http1_attempt cimport drop_own

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_MORE
        MSG_NOSIGNAL
    ssize_t send(int fd, const void *data, size_t size, int flags)

cdef enum:
    # As long as nginx by default (lingering_time): whoever uploads may send all of it before it looks at the answer.
    LINGER_NS = 30_000_000_000
    LINGER_SILENCE_NS = 2_000_000_000


cdef class EndingConnection(AnsweringConnection):

    def __dealloc__(self):
        tg_buffer_free(&self.inbox)

    cdef void read_loop(self) noexcept:
        pass

    cdef bint over(self) noexcept:
        """A client that said `close` sends no more (RFC 9112 section 9.6). Some do, and unread bytes would make the
        close a reset, which takes the answer with it."""
        cdef Py_ssize_t n
        if self.unread or self.hangup:
            return not self.unread
        if not self.last_request or self.parser.reading_body or tg_buffer_size(&self.inbox):
            return False
        if not self.looked:
            n = self.receive(self.poller.scratch, self.poller.scratch_size)
            if n > 0:
                self.last_request = False
                return False
            self.looked = True
        return True

    cdef int push_last(self) noexcept:
        """The kernel waits with the last bytes for the close, and sends one segment with the FIN instead of two."""
        cdef ssize_t n
        cdef int left
        if self.tls is None:
            n = send(self.fd, tg_buffer_head(&self.out), tg_buffer_size(&self.out),
                     MSG_MORE | MSG_NOSIGNAL | MSG_DONTWAIT)
            if n > 0:
                tg_buffer_consume(&self.out, <size_t>n)
        left = self.push()                        # what is left, and what was wrong
        self.looked = left == 0
        return left

    cdef void finish(self) noexcept:
        """Closing with unread bytes, or before some come, would reset the connection and take the answer with it: shut
        our side, read theirs away."""
        if self.cut and self.until_close:
            self.reset_on_close()                 # its end is the connection's, so that must be no good one
            self.close_now()
            return
        if self.over():
            self.close_now()
            return
        self.lingering = True
        self.unread = True
        tg_buffer_free(&self.inbox)
        self.shutdown_write()
        self.linger_end = self.poller.now + LINGER_NS
        self.read_away()
        self.read_loop()

    cdef void read_away(self) noexcept:
        self.poller.arm(self, min(self.linger_end, self.poller.now + LINGER_SILENCE_NS))

    cdef void close_now(self) noexcept:
        cdef Exchange exchange = self.exchange
        if self.fd < 0:
            return
        self.exchange = None
        drop_own(self)
        self.poller.remove(self)
        (<set>self.listener.connections).discard(self)
        self.listener.closed_one(self.ip, self.ip_length)
        if exchange is not None:
            self.intake.busy -= 1
            exchange.client_gone()

    # From Python.

    def close_if_idle(self):
        """Close unless an exchange or an answer is under way; a request that has come by now is still answered."""
        if self.exchange is None and not self.pending() and self.fd >= 0:
            self.unread = True
            self.last_look = True
            self.poller.mark(self)

    def finishing(self):
        """Whether there is work left although no exchange is under way: an answer to send, or a last look."""
        return self.fd >= 0 and self.exchange is None and (self.pending() > 0 or self.last_look)

    def close(self):
        """Close at once; an exchange in progress is cancelled."""
        self.close_now()
