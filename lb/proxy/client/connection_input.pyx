"""What a client sends over HTTP/1.1, as it is received: see connection_input.pxd."""

from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer_size
from lb.net.poller cimport READ_TURNS
from lb.net.reading cimport drained
from lb.net.splice cimport PASS_FROM, PASS_LOST, PASS_MUCH, PASS_NOT, PASS_REST
from lb.net.stream cimport IO_AGAIN, IO_ERROR
from lb.net.tls.session cimport handshake_turn
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.client.body_rate cimport pace_advance

cdef enum:
    INBOX_LIMIT = 256 * 1024          # bytes read ahead of the exchange in progress
    STRAIGHT = 16 * 1024              # of a body still to come: from here on a copy costs more than a read of its own


cdef class ReceivingConnection(EndingConnection):

    cdef void process(self, const char *data, size_t n) noexcept:
        pass

    cdef void ended(self, bint error) noexcept:
        pass

    cdef bint takes_input(self) noexcept:
        """Whether there is someone to take what has come."""
        if self.exchange is None:
            return self.skipping or self.pending() < OUT_LIMIT
        return self.exchange.wants_body and not self.exchange.request_complete

    cdef bint accepts_input(self) noexcept:
        """Whether more may come."""
        if self.lingering:
            return True
        if self.closing:
            return False
        if self.exchange is None and tg_buffer_size(&self.inbox) >= INBOX_LIMIT + self.listener.max_header_bytes:
            return False
        return self.takes_input()

    cdef void read_loop(self) noexcept:
        cdef Py_ssize_t n
        cdef size_t room = self.poller.scratch_size
        cdef char *into = self.poller.scratch
        cdef int turn = 0
        if self.deferred:
            return                                # the others have their turn
        if self.tls is not None and self.tls.handshaking and not handshake_turn(self.poller.now):
            self.poller.defer(self)               # on_flush goes on
            return
        while self.fd >= 0 and self.unread and self.accepts_input() and not self.deferred:
            if turn == READ_TURNS:
                self.poller.defer(self)           # on_flush goes on
                return
            turn += 1
            n = self.pass_on() if self.bulk else PASS_NOT
            if n > 0 or n == PASS_LOST:
                continue
            if n == PASS_NOT:
                into = self.place(&room)
                n = self.receive(into, room)
                self.bulk = n >= PASS_MUCH
            if n == IO_AGAIN:
                self.unread = not drained(self)
                if self.unread:
                    self.poller.defer(self)
                elif self.tls is not None:
                    self.watch_record()
                return
            if n == IO_ERROR or n == 0:
                self.unread = False
                self.ended(n == IO_ERROR)
                return
            if <size_t>n < room and not self.hangup and drained(self):
                self.unread = False               # drained; the edge will tell
            if self.lingering:
                self.read_away()
                continue
            self.process(into, <size_t>n)

    cdef Py_ssize_t pass_on(self) noexcept:
        """A part of a long body, if nobody here has to see it: see `Exchange.pass_body`."""
        cdef Exchange exchange = self.exchange
        cdef Py_ssize_t n
        if exchange is None or self.tls is not None or tg_buffer_size(&self.inbox) or not self.parser.has_length() or (
                self.parser.http.content_length < PASS_FROM):
            return PASS_NOT
        n = exchange.pass_body(<size_t>self.parser.http.content_length - PASS_REST)
        if n > 0:
            self.parser.http.content_length -= <uint64_t>n
            self.bulk = n >= PASS_MUCH
            self.body_deadline = pace_advance(&self.pace, self.poller.now, <uint64_t>n, self.listener.body_quota,
                                              self.listener.body_timeout)
        return n

    cdef char *place(self, size_t *room) noexcept:
        """Where to receive: a long body of known length comes straight to where its exchange gathers it."""
        cdef Exchange exchange = self.exchange
        cdef char *place = NULL
        cdef size_t left
        room[0] = self.poller.scratch_size
        if exchange is not None and self.parser.has_length() and tg_buffer_size(&self.inbox) == 0:
            left = <size_t>min(self.parser.http.content_length, <uint64_t>self.poller.scratch_size)
            if left >= STRAIGHT:
                place = exchange.body_place(left)
                if place != NULL:
                    room[0] = left                # what follows the body is another request
                    return place
        return self.poller.scratch

    cdef void watch_record(self) noexcept:
        """A client could trickle a TLS record as it could a head, and nothing of it would show here before its end: a
        record that has begun counts as a head that has."""
        if self.exchange is not None or self.tls.handshaking or tg_buffer_size(&self.inbox):
            return
        if not self.tls.partial():
            self.head_started = False
        elif not self.head_started:
            self.head_started = True
            self.head_deadline = self.poller.now + self.listener.header_timeout
