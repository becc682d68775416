"""A connection of a client: see connection.pxd.

    read_loop      bytes go to the session, whose events begin, feed and end the calls (call.pyx)
    on_flush       what all of them have to say is gathered and written once at the end of the poller's batch
    leave          GOAWAY in two steps (RFC 9113 section 6.8)
"""

from libc.stdint cimport uint32_t, uint64_t
from lb.http.http2.queue cimport h2_options
from lb.http.http2.scatter cimport SCATTER_FRAMES, h2_scatter, scatter_plan, scatter_right
from lb.net.buffer cimport tg_buffer_append, tg_buffer_consume, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.net.poller cimport NEVER, READ_TURNS
from lb.net.states cimport states_of, tg_move, tg_state, tg_states
from lb.net.stream cimport EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLRDHUP, IO_AGAIN, IO_ERROR

cdef enum:
    BUDGET = 1024 * 1024              # gathered for one write
    OUT_LIMIT = 1024 * 1024           # bytes that wait for the client, above which nothing more is read from it
    # Work for one client before the others get their turn (Http2Session.work).
    TURN_WORK = 2048
    AHEAD = 16 * 1024                 # bytes of what waited that are looked at in one turn
    # Read first where a large message is expected: its head, from which it follows where the rest belongs.
    GLANCE = 2048
    FRAME_WORK = 8                    # Http2Session.work that a full DATA frame takes, or somewhat more
    LAST_WORD_NS = 100_000_000        # between the two steps of leaving: more than a round trip
    STALL_NS = 60_000_000_000         # without a byte taken
    STREAM_WINDOW = 4 * 1024 * 1024
    CONNECTION_WINDOW = 32 * 1024 * 1024
    STREAMS = 10_000                  # calls of one connection; queues of models end sooner
    HEADER_LIST = 64 * 1024
    FIELDS = 256

cdef tg_states TABLE
TABLE.machine = b"connection of the model server"
tg_state(&TABLE, b"open", 1 << CONNECTION_WARNED | 1 << CONNECTION_STOPPED | 1 << CONNECTION_LAST
         | 1 << CONNECTION_CLOSED)
tg_state(&TABLE, b"warned", 1 << CONNECTION_STOPPED | 1 << CONNECTION_LAST | 1 << CONNECTION_CLOSED)
tg_state(&TABLE, b"stopped", 1 << CONNECTION_LAST | 1 << CONNECTION_CLOSED)
tg_state(&TABLE, b"last", 1 << CONNECTION_CLOSED)
tg_state(&TABLE, b"closed", 0)
STATES = states_of(&TABLE)

cdef h2_options OPTIONS
OPTIONS.stream_window = STREAM_WINDOW
OPTIONS.connection_window = CONNECTION_WINDOW
OPTIONS.max_streams = STREAMS
OPTIONS.header_list = HEADER_LIST
OPTIONS.max_fields = FIELDS
OPTIONS.connect_protocol = False
OPTIONS.local = False                 # as the socket is
# Of the loop: what is read is taken before anything else is read.
cdef h2_scatter SCATTER


cdef class Connection(Stream):

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
        cdef size_t room = self.poller.scratch_size, wanted
        cdef int turn = 0
        if self.deferred:
            return                                # the others have their turn
        self.session.work = TURN_WORK
        while self.state < CONNECTION_LAST and self.waiting() < OUT_LIMIT:
            if turn == READ_TURNS or self.session.work <= 0:
                self.poller.defer(self)           # on_flush goes on
                return
            turn += 1
            if tg_buffer_size(&self.inbox):
                if not self.take(tg_buffer_head(&self.inbox), min(tg_buffer_size(&self.inbox), <size_t>AHEAD)):
                    return
                continue
            if not self.unread:
                return
            wanted = room
            SCATTER.count = 0
            if self.session.bulky and self.tls is None:
                scatter_plan(&SCATTER, self.session, min(self.frames, self.session.work // FRAME_WORK),
                             self.poller.scratch, room)
                wanted = SCATTER.room if SCATTER.count else <size_t>GLANCE
            if SCATTER.count:
                n = self.receive_parts(SCATTER.parts, SCATTER.count)
            else:
                n = self.receive(self.poller.scratch, wanted)
            if n == IO_AGAIN:
                self.unread = False
                return
            if n == IO_ERROR or n == 0:
                self.close_now()                  # no half-closed connections in HTTP/2: nobody is left to answer
                return
            # A read ends behind a descriptor, whatever is there.
            if <size_t>n < wanted and not self.hangup and not self.takes_descriptor:
                self.unread = False               # the edge will tell
            if SCATTER.count:
                if not self.take_parts(<size_t>n):
                    return
            elif not self.take(self.poller.scratch, <size_t>n):
                return

    cdef bint take(self, const char *data, size_t n) noexcept:
        """False: nothing more is taken from this client."""
        cdef size_t have = tg_buffer_size(&self.inbox), left
        if self.session.feed(data, n) < 0:
            if self.session.queue.choked:         # whoever does not read needs no last word
                self.close_now()
                return False
            self.move(CONNECTION_LAST)            # what the session has to say of it is still written
            return False
        left = self.session.untaken
        if have:                                  # they are there already
            if have > n - left:
                tg_buffer_consume(&self.inbox, n - left)
            else:
                tg_buffer_free(&self.inbox)
        elif left and tg_buffer_append(&self.inbox, data + n - left, left) < 0:
            self.close_now()
            return False
        return True

    cdef bint take_parts(self, size_t n) noexcept:
        """As `take`, with what came in parts. Where something else came than was guessed, the bytes from there on are
        not where they belong, and are taken anew."""
        cdef size_t size
        cdef int i
        for i in range(SCATTER.count):
            size = min(n, SCATTER.parts[i].iov_len)
            if not scatter_right(&SCATTER, i, size):
                self.frames = max(1, i // 4)
                return self.keep_parts(i, n)
            if not self.take(<const char *>SCATTER.parts[i].iov_base, size):
                return False
            n -= size
            if n == 0:
                break
            if tg_buffer_size(&self.inbox):
                return self.keep_parts(i + 1, n)
        self.frames = min(2 * self.frames, <int>SCATTER_FRAMES)
        return True

    cdef bint keep_parts(self, int first, size_t n) noexcept:
        """What came in the parts from `first` on waits in the inbox."""
        cdef size_t size
        cdef int i
        for i in range(first, SCATTER.count):
            size = min(n, SCATTER.parts[i].iov_len)
            if tg_buffer_append(&self.inbox, SCATTER.parts[i].iov_base, size) < 0:
                self.close_now()
                return False
            n -= size
            if n == 0:
                break
        return True

    cdef size_t waiting(self) noexcept:
        """Bytes that wait for the client."""
        return self.pending() + tg_buffer_size(&self.session.queue.frames)

    # The end of a batch.

    cdef void on_flush(self) noexcept:
        cdef int rc
        if self.fd < 0:
            return
        rc = self.write_out()
        if rc == IO_ERROR:
            self.close_now()
            return
        if rc == 0 and (self.state == CONNECTION_LAST or self.session.ended()
                        or (self.state == CONNECTION_STOPPED and not self.session.active)):
            self.close_now()
            return
        if self.session.waiting and not self.deferred:
            self.session.resume()
            self.poller.mark(self)
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
            rc = self.session.collect(&self.out, BUDGET)
            if rc < 0:
                return IO_ERROR
            if rc == 0:
                break
            if self.session.gathered.pieces:
                rc = self.push_parts(self.session.gathered.vector, self.session.gathered.pieces)
            else:
                rc = self.push()
            if rc == IO_ERROR:
                return IO_ERROR
        self.session.bury()
        return rc

    cdef void set_timer(self) noexcept:
        cdef uint64_t when = NEVER
        if self.pending():
            if self.stalled_at == 0:
                self.stalled_at = self.poller.now + STALL_NS
            when = self.stalled_at
        else:
            self.stalled_at = 0
        if self.state == CONNECTION_WARNED:
            when = min(when, self.stop_at)
        self.poller.arm(self, when)

    cdef void on_timer(self) noexcept:
        if self.stalled_at and self.poller.now >= self.stalled_at:
            self.close_now()
            return
        if self.state == CONNECTION_WARNED and self.poller.now >= self.stop_at:
            self.move(CONNECTION_STOPPED)
            self.session.stop_streams()
        self.poller.mark(self)                    # which writes, and sets the timer anew

    cdef void close_now(self) noexcept:
        if self.fd < 0:
            return
        self.move(CONNECTION_CLOSED)
        self.poller.remove(self)
        self.front.connections.discard(self)
        self.session.lose()
        self.session.bury()

    # From Python.

    def leave(self) -> None:
        """Asks the client to go: calls that it makes until it hears of it are still taken."""
        if self.state == CONNECTION_OPEN:
            self.move(CONNECTION_WARNED)
            self.stop_at = self.poller.now + LAST_WORD_NS
            self.session.warn_shutdown()
            self.poller.mark(self)

    def close(self) -> None:
        """Closes at once; the calls in progress are given up."""
        self.close_now()


cdef int take_over(Stream old, Front front, const char *data, size_t size) noexcept:
    cdef Connection connection = Connection.__new__(Connection)
    cdef h2_options options
    connection.front = front
    connection.session = GrpcSession.__new__(GrpcSession)
    connection.session.setup(front, connection)
    connection.frames = SCATTER_FRAMES
    options = OPTIONS
    options.local = old.is_unix()
    connection.takes_descriptor = options.local
    if connection.session.begin(True, &options) < 0 or old.poller.hand_over(old, connection) < 0:
        return -1
    front.connections.add(connection)
    if front.leaving:
        connection.leave()
    connection.unread = True
    connection.session.work = TURN_WORK
    if connection.take(data, size) or connection.fd >= 0:
        connection.poller.mark(connection)
    return 0
