"""An HTTP/2 connection with a client: see http2_connection.pxd.

    read_loop      bytes go to the session, whose events begin, feed and end the requests (http2_request.pyx)
    on_flush       what all of them have to say is gathered and written once at the end of the poller's batch
    leave          GOAWAY in two steps (RFC 9113 section 6.8): old age, a drain, a listener that is gone
"""

import random

from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from libc.string cimport memcpy
from lb.net.buffer cimport tg_buffer_append, tg_buffer_consume, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.net.poller cimport READ_TURNS
from lb.net.reading cimport drained
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport LISTENER_HTTP2_CONNECTIONS, LISTENER_HTTP2_FLOODS
from lb.net.states cimport states_of, tg_move, tg_state, tg_states
from lb.net.stream cimport EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLRDHUP, IO_AGAIN, IO_ERROR
from lb.proxy.exchange.admission cimport Admission
from lb.proxy.client.client cimport Client
from lb.proxy.client.http2_request cimport Http2Host

cdef enum:
    BUDGET = 256 * 1024               # gathered for one write
    OUT_LIMIT = 256 * 1024            # bytes that wait for the client, above which nothing more is read from it
    # Work for one client before the others get their turn (Http2Session.work): about as many requests as may be open by
    # default, a mebibyte and a half of bodies, thirty streams that the client cancels or four that it makes us reset.
    TURN_WORK = 512
    AHEAD = 16 * 1024                 # bytes of what waited that are looked over in one turn, which takes fewer
    LAST_WORD_NS = 200_000_000        # between the two steps of leaving: more than a round trip


cdef void take_over(Client old, Admission admission, const char *data, size_t n) noexcept:
    cdef Http2Connection connection = Http2Connection.__new__(Http2Connection)
    connection.poller = old.poller
    connection.admission = admission
    connection.listener = old.listener
    memcpy(connection.ip, old.ip, sizeof(old.ip))
    connection.ip_length = old.ip_length
    connection.port = old.port
    connection.host = Http2Host.__new__(Http2Host)
    connection.host.setup(connection, admission)
    connection.age_limit = UINT64_MAX
    connection.tls = old.tls
    old.tls = None
    if old.poller.hand_over(old, connection) < 0:
        return                                    # the old one's timeout will end it
    (<set>old.listener.connections).discard(old)
    (<set>old.listener.connections).add(connection)
    tg_add(&old.listener.series[LISTENER_HTTP2_CONNECTIONS], 1)
    if connection.host.begin(True, &old.listener.http2.options) < 0:
        connection.close_now()
        return
    if old.listener.http2.max_age:
        # Spread by a tenth, so that connections which were made together do not come back together.
        connection.age_limit = old.poller.now + <uint64_t>(old.listener.http2.max_age * random.uniform(0.9, 1.1))
    connection.unread = True
    connection.host.work = TURN_WORK
    if connection.take(data, n):
        connection.poller.mark(connection)
    if tg_buffer_size(&connection.inbox):
        connection.poller.defer(connection)


# Which state may follow which.
cdef tg_states TABLE
TABLE.machine = b"HTTP/2 connection of a client"
tg_state(&TABLE, b"open", 1 << FRONT_WARNED | 1 << FRONT_STOPPED | 1 << FRONT_LAST | 1 << FRONT_CLOSED)
tg_state(&TABLE, b"warned", 1 << FRONT_STOPPED | 1 << FRONT_LAST | 1 << FRONT_CLOSED)
tg_state(&TABLE, b"stopped", 1 << FRONT_LAST | 1 << FRONT_CLOSED)
tg_state(&TABLE, b"last", 1 << FRONT_CLOSED)
tg_state(&TABLE, b"closed", 0)
STATES = states_of(&TABLE)


cdef class Http2Connection(Client):

    def __dealloc__(self):
        tg_buffer_free(&self.inbox)

    cdef void move(self, int state) noexcept:
        tg_move(&TABLE, &self.state, state)

    cdef void on_ready(self, uint32_t events) noexcept:
        if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            self.hangup = True
        if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            self.unread = True
            self.read_loop()
        if self.fd >= 0:
            self.poller.mark(self)

    cdef void read_loop(self) noexcept:
        cdef Py_ssize_t n
        cdef size_t room = self.poller.scratch_size
        cdef int turn = 0
        if self.deferred:
            return                                # the others have their turn
        self.host.work = TURN_WORK
        while self.state < FRONT_LAST and self.waiting() < OUT_LIMIT:
            if turn == READ_TURNS or self.host.work <= 0:
                self.poller.defer(self)           # on_flush goes on
                return
            turn += 1
            if tg_buffer_size(&self.inbox):
                if not self.take(tg_buffer_head(&self.inbox), min(tg_buffer_size(&self.inbox), <size_t>AHEAD)):
                    return
                continue
            if not self.unread:
                return
            n = self.receive(self.poller.scratch, room)
            if n == IO_AGAIN:
                self.unread = not drained(self)
                if self.unread:
                    self.poller.defer(self)
                return
            if n == IO_ERROR or n == 0:
                self.close_now()                  # no half-closed connections in HTTP/2: nobody is left to answer
                return
            if <size_t>n < room and not self.hangup and drained(self):
                self.unread = False               # drained; the edge will tell
            if not self.take(self.poller.scratch, <size_t>n):
                return

    cdef bint take(self, const char *data, size_t n) noexcept:
        """False: nothing more is taken from this client."""
        if self.host.take(data, n) < 0:
            if self.host.queue.choked:                  # whoever does not read needs no last word
                tg_add(&self.listener.series[LISTENER_HTTP2_FLOODS], 1)
                self.close_now()
                return False
            self.move(FRONT_LAST)                 # what the session has to say of it is still written
            return False
        if not self.keep(data, n, self.host.untaken):
            self.close_now()
            return False
        if self.host.blocks.id == 0:
            self.block_at = 0
        elif self.block_at == 0:
            self.block_at = self.poller.now + self.listener.header_timeout
        return True

    cdef bint keep(self, const char *data, size_t n, size_t left) noexcept:
        """The last `left` of the `n` bytes that were offered wait for another turn. False: no memory."""
        cdef size_t have = tg_buffer_size(&self.inbox)
        if have:                                  # they are there already
            if have > n - left:
                tg_buffer_consume(&self.inbox, n - left)
            else:
                tg_buffer_free(&self.inbox)
            return True
        return left == 0 or tg_buffer_append(&self.inbox, data + n - left, left) == 0

    cdef size_t waiting(self) noexcept:
        return self.pending() + tg_buffer_size(&self.host.queue.frames)

    # The end of a batch.

    cdef void on_flush(self) noexcept:
        cdef int rc
        if self.fd < 0:
            return
        if self.state == FRONT_OPEN and (self.admission.draining or self.listener.draining):
            self.leave()
        if self.host.waiting and self.state != FRONT_LAST:
            self.host.launch_waiting()
            if self.fd < 0:
                return
        rc = self.write_out()
        if rc == IO_ERROR:
            self.close_now()
            return
        if rc == 0 and (self.state == FRONT_LAST or self.host.ended()
                        or (self.state == FRONT_STOPPED and not self.host.active)):
            self.close_now()
            return
        # Whoever does not take what was written is not read, and would be looked at again and again.
        if (self.unread or tg_buffer_size(&self.inbox)) and not self.deferred and (
                rc == 0 or self.waiting() < OUT_LIMIT):
            self.read_loop()
            if self.fd < 0:
                return
            self.poller.mark(self)                # what came may have called forth something
        self.set_timer()

    cdef int write_out(self) noexcept:
        """Writes until nothing is left (0) or the socket is full (1). IO_ERROR: it is gone."""
        cdef size_t waiting = self.pending()
        cdef int rc = self.push() if waiting else 0
        if self.pending() < waiting:
            self.stalled_at = 0
        while rc == 0:
            rc = self.host.collect(&self.out, BUDGET)
            if rc < 0:
                return IO_ERROR
            if rc == 0:
                break
            if self.host.gathered.pieces:
                rc = self.push_parts(self.host.gathered.vector, self.host.gathered.pieces)
            else:
                rc = self.push()
            if rc == IO_ERROR:
                return IO_ERROR
        self.host.bury()
        return rc

    # Leaving.

    cdef void leave(self) noexcept:
        """Streams that the client opens before it hears of it are still taken; a moment later comes the last word."""
        if self.state != FRONT_OPEN:
            return
        self.move(FRONT_WARNED)
        self.stop_at = self.poller.now + LAST_WORD_NS
        self.host.warn_shutdown()
        self.poller.mark(self)

    cdef void stop(self) noexcept:
        """The last word: no stream is taken any more."""
        self.move(FRONT_STOPPED)
        self.host.stop_streams()

    cdef void close_now(self) noexcept:
        if self.fd < 0:
            return
        self.move(FRONT_CLOSED)
        self.poller.remove(self)
        (<set>self.listener.connections).discard(self)
        self.listener.closed_one(self.ip, self.ip_length)
        self.host.lose()
        self.host.bury()

    # Timeouts.

    cdef void set_timer(self) noexcept:
        cdef uint64_t now = self.poller.now
        cdef uint64_t when = self.age_limit if self.state == FRONT_OPEN else UINT64_MAX
        if self.pending():
            if self.stalled_at == 0:
                self.stalled_at = now + self.listener.send_timeout if self.listener.send_timeout else UINT64_MAX
            when = min(when, self.stalled_at)
        else:
            self.stalled_at = 0
        if self.block_at:
            when = min(when, self.block_at)
        if self.state == FRONT_WARNED:
            when = min(when, self.stop_at)
        if self.host.active:
            self.idle_at = 0
        else:
            if self.idle_at == 0:
                self.idle_at = now + self.listener.idle_timeout if self.listener.idle_timeout else UINT64_MAX
            when = min(when, self.idle_at)
        self.poller.arm(self, when)

    cdef void on_timer(self) noexcept:
        cdef uint64_t now = self.poller.now
        if (self.stalled_at and now >= self.stalled_at) or (self.block_at and now >= self.block_at):
            self.close_now()
            return
        if self.state == FRONT_WARNED and now >= self.stop_at:
            self.stop()
        elif now >= self.age_limit:
            self.leave()
        if self.idle_at and now >= self.idle_at and self.state < FRONT_STOPPED:
            self.stop()
        self.poller.mark(self)                    # which writes, and sets the timer anew

    # From Python.

    def close_if_idle(self):
        """Leave: now if no request is in flight, after the last one else."""
        if self.fd >= 0:
            self.leave()

    def finishing(self):
        """Whether there is work left although no exchange is under way: an answer to send, or the last word."""
        return self.fd >= 0 and (self.pending() > 0 or self.host.active > 0 or self.state == FRONT_WARNED)

    def close(self):
        """Close at once; the exchanges in progress are cancelled."""
        self.close_now()
