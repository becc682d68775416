"""One HTTP/2 connection of a channel: see http2_connection.pxd."""

from libc.errno cimport ETIMEDOUT, errno
from libc.limits cimport INT_MAX
from libc.stdint cimport UINT32_MAX, UINT64_MAX, int32_t, uint32_t, uint64_t
from libc.string cimport strerror
from lb.failure cimport FAIL_CONNECT, FAIL_PROTOCOL, FAIL_REFUSED, FAIL_RESET, FAIL_TIMEOUT
from lb.net.arena cimport Arena, View, new_arena
from lb.net.buffer cimport tg_buffer_append, tg_buffer_consume, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.http.http2.session cimport (
    H2_EXHAUSTED, H2_FAULT_FRAME, H2_RESET_FRAME, SESSION_OVER, Http2Session, h2_options, h2_stream,
)
from lb.http.http2.frames cimport LOCAL_VERSION, H2_CANCEL, H2_ENHANCE_YOUR_CALM, H2_NO_ERROR, H2_REFUSED_STREAM
from lb.http.http2.head cimport FieldList, worker_fields
from lb.net.link cimport link_append, link_empty, link_init, link_remove
from lb.net.poller cimport READ_TURNS
from lb.net.reading cimport drained
from lb.net.states cimport states_of, tg_move, tg_state, tg_states
from lb.net.stream cimport (
    EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, IO_AGAIN, IO_ERROR, Stream,
)
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport (
    ENDPOINT_LOCAL_BYTES_RECEIVED, ENDPOINT_LOCAL_BYTES_SENT, ENDPOINT_LOCAL_FULL, ENDPOINT_LOCAL_MESSAGES_RECEIVED,
    ENDPOINT_LOCAL_MESSAGES_SENT,
)
from lb.upstream.connections.deferred_release cimport DeferredRelease, DeferredReleases
from lb.upstream.connections.http2_call cimport Dispatcher, Http2Call

cdef enum:
    REFUSALS = 4                      # a call is sent again so often when its stream is refused
    # Gathered for one write: about what a socket takes at once. What it does not take is copied.
    BUDGET = 256 * 1024
    # Work for one endpoint before the others get their turn (Http2Session.work): some 250 small answers.
    TURN_WORK = 1024
    # Frames in a row which an endpoint may send without bringing an answer on: windows, PINGs, what is ignored.
    USELESS_MOST = 10_000
    INTERIMS_MOST = 100               # interim answers to one request (RFC 9110 section 15.2)

# What an endpoint may have in flight towards us. A stream's window must hold bandwidth times delay of one big answer:
# 1 MiB covers 10 Gbit/s at 0.8 ms. The connection's holds 16 such answers and bounds only bursts.
cdef h2_options OPTIONS
OPTIONS.stream_window = 1 << 20
OPTIONS.connection_window = 16 << 20
OPTIONS.max_streams = 0
OPTIONS.header_list = 64 * 1024
OPTIONS.max_fields = 1000
OPTIONS.connect_protocol = False


# Which state may follow which.
cdef tg_states TABLE
TABLE.machine = b"HTTP/2 connection of an endpoint"
tg_state(&TABLE, b"connecting", 1 << BACK_SETTINGS | 1 << BACK_LOST)
tg_state(&TABLE, b"settings", 1 << BACK_UP | 1 << BACK_LOST)
tg_state(&TABLE, b"up", 1 << BACK_RETIRED | 1 << BACK_LOST)
tg_state(&TABLE, b"retired", 1 << BACK_LOST)
tg_state(&TABLE, b"lost", 0)
STATES = states_of(&TABLE)


cdef class Session(Http2Session):

    cdef bint gathers(self, h2_stream *stream) noexcept:
        return (<Http2Call>stream.owner).gathers()

    cdef void on_field(self, h2_stream *stream, const char *name, size_t name_size, const char *value,
                       size_t value_size) noexcept:
        cdef Http2Call call = <Http2Call>stream.owner
        cdef int fail = call.take_field(self, name, name_size, value, value_size)
        if fail:
            self.give_up(call, fail)

    cdef void on_fields_end(self, h2_stream *stream, bint last) noexcept:
        cdef Http2Call call = <Http2Call>stream.owner
        cdef bint over = False
        cdef int fail
        call.begun = True
        self.useless = 0
        fail = call.take_fields(self, last, &over)
        if call.connection is None:
            return                               # it was cancelled meanwhile
        if not call.begun:
            call.interims += 1
            if call.interims > INTERIMS_MOST:
                fail = FAIL_PROTOCOL
        if fail:
            self.give_up(call, fail)
        elif over:
            call.judge()
            self.give_up(call, call.fail)

    cdef void on_data(self, h2_stream *stream, const char *data, size_t size) noexcept:
        cdef Http2Call call = <Http2Call>stream.owner
        cdef size_t held = 0
        cdef int fail
        self.useless = 0
        fail = call.take_data(data, size, &held)
        self.taken(call, fail, size, held)

    cdef void taken(self, Http2Call call, int fail, size_t size, size_t held) noexcept:
        if call.connection is None:
            return
        if fail:
            self.give_up(call, fail)
        elif held < size:
            self.consume(&call.stream, size - held)

    cdef void give_up(self, Http2Call call, int fail) noexcept:
        self.reset(&call.stream, H2_CANCEL)
        call.cut = True
        (<Http2Upstream>self.connection).end(call, fail)

    cdef void on_end(self, h2_stream *stream) noexcept:
        cdef Http2Call call = <Http2Call>stream.owner
        if stream.sent:
            self.forget(stream)
        else:
            self.reset(stream, H2_CANCEL)   # answered without reading it all: RFC 9113 8.1
            call.cut = True
        call.judge()
        (<Http2Upstream>self.connection).end(call, call.fail)

    cdef void on_close(self, h2_stream *stream, uint32_t code) noexcept:
        cdef Http2Call call = <Http2Call>stream.owner
        cdef int fail = FAIL_RESET
        if code == H2_REFUSED_STREAM and not call.begun:
            fail = FAIL_REFUSED
            if (<Http2Upstream>self.connection).again(call):
                return
        elif not stream.reset_by_peer and code != H2_NO_ERROR:
            fail = FAIL_PROTOCOL                 # the answer was malformed, and the session has reset it
            call.cut = True
        (<Http2Upstream>self.connection).end(call, fail)

    cdef void on_room(self, h2_stream *stream) noexcept:
        (<Http2Call>stream.owner).room()

    cdef void on_settings(self) noexcept:
        cdef Http2Upstream connection = <Http2Upstream>self.connection
        if connection.state == BACK_SETTINGS:
            connection.move(BACK_UP)
            connection.poller.disarm(connection)
            connection.channel.opened(connection)
        if self.peer_local == LOCAL_VERSION and not self.options.local and connection.is_unix():
            connection.offer_arena()

    cdef int on_arena(self) noexcept:
        cdef Http2Upstream connection = <Http2Upstream>self.connection
        cdef int fd = connection.passed
        connection.passed = 0
        connection.takes_descriptor = False
        return fd

    cdef void on_mapped(self, const char *problem) noexcept:
        if problem != NULL:
            (<Http2Upstream>self.connection).channel.not_local(problem)

    cdef void on_local(self) noexcept:
        (<Http2Upstream>self.connection).channel.is_local()

    cdef void on_release(self) noexcept:
        cdef Http2Upstream connection = <Http2Upstream>self.connection
        connection.poller.mark(connection)

    cdef void on_view(self, h2_stream *stream, View view, bint last) noexcept:
        cdef Http2Call call = <Http2Call>stream.owner
        cdef size_t held = 0
        cdef int fail
        count_message(call, ENDPOINT_LOCAL_MESSAGES_RECEIVED, ENDPOINT_LOCAL_BYTES_RECEIVED, view.size)
        self.useless = 0
        fail = call.take_view(view, &held)
        self.taken(call, fail, view.size, held)

    cdef void on_message(self, h2_stream *stream, size_t size, bint full) noexcept:
        if full:
            count_message(<Http2Call>stream.owner, ENDPOINT_LOCAL_FULL, ENDPOINT_LOCAL_FULL, 0)
        else:
            count_message(<Http2Call>stream.owner, ENDPOINT_LOCAL_MESSAGES_SENT, ENDPOINT_LOCAL_BYTES_SENT, size)

    cdef void on_acknowledged(self) noexcept:
        (<Http2Upstream>self.connection).releases.acknowledge()

    cdef void on_control(self, int kind) noexcept:
        """An endpoint that talks on and answers nothing is given up, and what waits for it with it.

        A stream that is reset ends a call, and there are as many calls as we make. Windows are called forth by the DATA
        that we send."""
        if kind == H2_RESET_FRAME or kind == H2_FAULT_FRAME:
            return
        if self.data_frames_then != self.data_frames:
            self.data_frames_then = self.data_frames
            self.useless = 0
        self.useless += 1
        if self.useless > USELESS_MOST:
            self.terminate(H2_ENHANCE_YOUR_CALM)

    cdef void on_goaway(self, int32_t last_stream, uint32_t code) noexcept:
        # The session has closed the streams above `last_stream` as refused.
        (<Http2Upstream>self.connection).retire()


cdef void count_message(Http2Call call, int messages, int bytes, size_t size) noexcept:
    cdef uint64_t *series
    if call.pool is None:                        # of a check
        return
    series = call.pool.series[call.endpoint]
    tg_add(&series[messages], 1)
    if size:
        tg_add(&series[bytes], size)


cdef class Http2Upstream(Stream):

    def __init__(self, Dispatcher channel not None):
        link_init(&self.calls)
        link_init(&self.over)
        self.limit = UINT32_MAX
        self.channel = channel
        self.poller = channel.poller
        self.session = Session()
        self.session.connection = <void *>self
        self.releases = DeferredReleases(self.poller)

    def __dealloc__(self):
        tg_buffer_free(&self.inbox)

    def __repr__(self):
        state = TABLE.names[self.state].decode()
        return f"<Http2Upstream {self.channel.address.text} {state} active={self.active}>"

    cdef void move(self, int state) noexcept:
        tg_move(&TABLE, &self.state, state)

    cdef int open(self) noexcept:
        if self.start_connect(self.channel.address, True) < 0:
            self.move(BACK_LOST)
            return -1
        self.poller.arm(self, self.poller.now + self.channel.connect_timeout)
        if not self.connecting:
            self.established()
        return 0

    cdef void established(self) noexcept:
        self.heard = self.poller.now
        self.move(BACK_SETTINGS)
        if self.session.begin(False, &OPTIONS) < 0:
            self.lose(FAIL_CONNECT)
            return
        self.poller.mark(self)

    cdef void offer_arena(self) noexcept:
        """The endpoint takes part in local transport."""
        cdef Arena arena = new_arena()
        if arena is None:
            self.channel.not_local(strerror(errno))
        elif self.session.offer(arena) == 0:
            self.passing = arena.fd
            self.takes_descriptor = True          # the endpoint's comes in return
            self.poller.mark(self)

    cdef void on_ready(self, uint32_t events) noexcept:
        cdef int rc
        if self.connecting:
            if self.tls is None and not events & <uint32_t>(EPOLLOUT | EPOLLERR | EPOLLHUP):
                return
            rc = self.finish_connect()
            if rc == IO_ERROR:
                self.lose(FAIL_CONNECT)
            if rc:
                return
            self.established()
            if self.state == BACK_LOST:
                return
        if events & <uint32_t>(EPOLLIN | EPOLLRDHUP | EPOLLERR | EPOLLHUP):
            self.unread = True
            if events & <uint32_t>(EPOLLRDHUP | EPOLLERR | EPOLLHUP):
                self.hangup = True
            self.pump(False)
        if self.state != BACK_LOST and events & <uint32_t>EPOLLOUT:
            self.poller.mark(self)

    cdef void on_flush(self) noexcept:
        if (self.unread or tg_buffer_size(&self.inbox)) and BACK_CONNECTING < self.state < BACK_LOST:
            self.pump(False)
        self.flush()

    cdef void on_timer(self) noexcept:
        if self.state < BACK_UP:
            self.error = ETIMEDOUT
            self.lose(FAIL_CONNECT)
        elif self.pinged and self.heard <= self.pinged and self.poller.now >= self.pinged + self.channel.ping_timeout:
            self.lose(FAIL_RESET)
        else:
            self.watch()

    cdef void watch(self) noexcept:
        """Keepalive: while calls wait on a silent connection, ask for a sign of life and expect one."""
        cdef uint64_t due = self.heard + self.channel.ping_after
        if not self.active:
            return                               # the next submit starts it again
        if self.pinged:
            due = max(due, self.pinged + self.channel.ping_interval)
        if due > self.poller.now:
            self.poller.arm(self, due)
        elif self.session.ping() == 0:
            self.pinged = self.poller.now
            self.poller.arm(self, self.poller.now + self.channel.ping_timeout)
            self.poller.mark(self)

    cdef void pump(self, bint last) noexcept:
        cdef Py_ssize_t n
        cdef int turn = 0
        if self.deferred and not last:
            return                               # the others have their turn
        self.session.work = INT_MAX if last else TURN_WORK
        while self.state != BACK_LOST and self.session.state != SESSION_OVER:
            if not last and (turn == READ_TURNS or self.session.work <= 0):
                self.poller.defer(self)          # on_flush goes on
                break
            turn += 1
            if tg_buffer_size(&self.inbox):
                if not self.take(tg_buffer_head(&self.inbox), tg_buffer_size(&self.inbox)):
                    return
                continue
            if not self.unread and not last:
                break
            n = self.receive(self.poller.scratch, self.poller.scratch_size)
            if n == IO_AGAIN:
                self.unread = not drained(self)
                if self.unread and not last:
                    self.poller.defer(self)
                break
            if n <= 0:
                self.lose(FAIL_RESET)
                return
            self.heard = self.poller.now
            # A read ends behind a descriptor, whatever is there.
            if (n < <Py_ssize_t>self.poller.scratch_size and not self.hangup and not self.takes_descriptor
                    and drained(self)):
                self.unread = False              # the edge will tell
            if not self.take(self.poller.scratch, <size_t>n):
                return
        if self.state != BACK_LOST:
            self.poller.mark(self)

    cdef bint take(self, const char *data, size_t n) noexcept:
        cdef size_t have = tg_buffer_size(&self.inbox)
        cdef size_t left
        if self.session.feed(data, n) < 0:
            self.lose(FAIL_PROTOCOL)
            return False
        left = self.session.untaken
        if have and left:
            tg_buffer_consume(&self.inbox, have - left)
        elif have:
            tg_buffer_free(&self.inbox)
        elif left and tg_buffer_append(&self.inbox, data + n - left, left) < 0:
            self.lose(FAIL_PROTOCOL)
            return False
        self.deliver()
        return self.state != BACK_LOST

    cdef void flush(self) noexcept:
        cdef int rc
        if self.state == BACK_LOST or self.connecting:
            return
        if self.releases.unasked and self.session.ask() == 0:
            self.releases.ask()
        rc = self.send()
        if rc == IO_ERROR:
            # What the peer said last may tell which streams it did not process.
            self.pump(True)
            if self.state != BACK_LOST:
                self.lose(FAIL_RESET)
            return
        self.deliver()
        if self.state == BACK_LOST:
            return
        if self.session.state == SESSION_OVER or self.session.ended():
            self.lose(FAIL_PROTOCOL if self.active else 0)
        elif self.state == BACK_RETIRED and not self.active and not self.pending():
            self.shut_down(0)

    cdef int send(self) noexcept:
        """Write until nothing is left (0) or the socket is full (1). IO_ERROR: it is gone."""
        cdef int rc
        if self.pending():
            rc = self.push()
            if rc:
                return rc
        while True:
            if self.state == BACK_UP:
                self.admit()
            rc = self.session.collect(&self.out, BUDGET)
            if rc < 0:
                return IO_ERROR
            if rc == 0:
                return 0
            rc = self.push_gathered()
            if rc:
                return rc

    cdef int push_gathered(self) noexcept:
        if self.session.gathered.pieces:
            return self.push_parts(self.session.gathered.vector, self.session.gathered.pieces)
        return self.push()

    cdef void admit(self) noexcept:
        cdef Http2Call call
        cdef uint32_t limit = min(self.limit, self.session.peer_stream_limit())
        while <uint32_t>self.session.streams < limit:
            call = self.channel.take()
            if call is None or self.submit(call) < 0:
                return

    cdef int submit(self, Http2Call call) noexcept:
        """Open the call's stream. -1: this connection opens no more; the call waits again."""
        cdef FieldList fields = worker_fields()
        cdef int rc
        if call.deadline <= self.poller.now:
            self.end(call, FAIL_TIMEOUT)
            return 0
        fields.clear()
        rc = call.build(fields, self.poller.now)
        if rc:
            self.end(call, rc)
            return 0
        self.session.useless = 0
        call.interims = 0
        call.stream.reset_by_peer = False
        call.stream.remote_ended = False
        rc = self.session.submit(&call.stream, fields.fields, fields.count, fields.block, fields.place)
        if rc == H2_EXHAUSTED:
            self.channel.put_back(call)
            self.retire()
            return -1
        if rc < 0:
            self.end(call, FAIL_CONNECT)
            return 0
        if not self.served:
            self.served = True
            self.channel.served()
        call.connection = self
        link_append(&self.calls, &call.link)
        self.active += 1
        self.channel.active += 1
        if self.deadline == UINT64_MAX:
            self.poller.arm(self, self.poller.now + self.channel.ping_after)
        return 0

    cdef bint again(self, Http2Call call) noexcept:
        cdef uint32_t announced
        if call.stream.reset_by_peer:
            # Servers count a stream until their write of its end has returned, which may be after we have read that end
            # and opened the next; so a peer that refuses within its limit gets a little less than it.
            announced = self.session.peer_stream_limit()
            self.limit = max(max(1, announced / 2), min(self.limit, announced) - 1) if announced else UINT32_MAX
        # gRFC A6 has one such retry; with a limit that sinks at each, a few more find their place under load. A server
        # that ends its connections after so many requests refuses by GOAWAY what is under way: the next one has it.
        if call.refused >= REFUSALS or not call.replayable():
            return False
        call.refused += 1
        call.sent_again()
        self.detach(call)
        self.channel.put_back(call)
        self.poller.mark(self.channel)
        return True

    cdef void detach(self, Http2Call call) noexcept:
        link_remove(&call.link)
        if call.connection is not None:
            call.connection = None
            self.active -= 1
            self.channel.active -= 1

    cdef void end(self, Http2Call call, int fail) noexcept:
        self.detach(call)
        call.fail = fail
        self.poller.disarm(call)
        link_append(&self.over, &call.link)

    cdef void deliver(self) noexcept:
        cdef Http2Call call
        while not link_empty(&self.over):
            call = <Http2Call>self.over.next.owner
            link_remove(&call.link)
            if not call.cut:
                call.conclude()
                continue
            call.cut = False
            self.channel.cutting = self
            call.conclude()
            self.channel.cutting = None

    cdef void abort(self, Http2Call call) noexcept:
        if call.connection is not None and self.state != BACK_LOST:
            self.session.reset(&call.stream, H2_CANCEL)
            self.poller.mark(self)
            self.channel.cutting = self
        self.detach(call)

    cdef int defer_release(self, DeferredRelease release) noexcept:
        if self.state == BACK_LOST or self.releases.add(release) < 0:
            return -1
        self.poller.mark(self)
        return 0

    cdef void retire(self) noexcept:
        if self.state < BACK_RETIRED:
            self.move(BACK_RETIRED)
            self.channel.retired(self)

    cdef void lose(self, int kind) noexcept:
        cdef bint was_up = self.state >= BACK_UP
        if self.state == BACK_LOST:
            return
        self.move(BACK_LOST)
        self.connecting = False
        self.session.end_local_transport()
        self.poller.remove(self)
        while not link_empty(&self.calls):
            self.end(<Http2Call>self.calls.next.owner, kind)
        self.releases.release_all()
        self.channel.lost(self, was_up)
        self.deliver()

    cdef void shut_down(self, int kind) noexcept:
        if self.state == BACK_LOST:
            return
        if not self.connecting and not self.pending():
            self.session.terminate(H2_NO_ERROR)
            if self.session.collect(&self.out, BUDGET) > 0:
                self.push_gathered()
        self.lose(kind)
