"""One HTTP/2 connection of a channel: socket, session and the calls on it."""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from lb.net.buffer cimport tg_buffer
from lb.http.http2.session cimport Http2Session, h2_stream
from lb.net.link cimport tg_link
from lb.net.stream cimport Stream
from lb.upstream.connections.deferred_release cimport DeferredRelease, DeferredReleases
from lb.upstream.connections.http2_call cimport Dispatcher, Http2Call


cdef class Session(Http2Session):
    # Turns events into the state of calls. Calls that end are put on the connection's `over` list and told when the
    # session is off the stack and what was gathered from them is written.
    cdef void *connection             # the Http2Upstream, which owns this object
    cdef uint32_t useless             # frames in a row that brought no answer on, while we sent nothing
    cdef uint64_t data_frames_then    # that we had sent at the last of them

    # The call is over as `fail`: RST_STREAM.
    cdef void give_up(self, Http2Call call, int fail) noexcept
    # `size` bytes of its answer came, of which the call holds some back.
    cdef void taken(self, Http2Call call, int fail, size_t size, size_t held) noexcept


# The table of steps is in http2_connection.pyx.
cdef enum:
    BACK_CONNECTING = 0
    BACK_SETTINGS                     # connected: the peer's SETTINGS have to come
    BACK_UP                           # takes calls
    BACK_RETIRED                      # takes no new calls, and closes behind the last one
    BACK_LOST


cdef class Http2Upstream(Stream):
    cdef unsigned char state          # BACK_…, changed by `move`
    cdef Dispatcher channel
    cdef Session session
    cdef tg_link calls                # that have a stream
    cdef tg_link over                 # that have ended and were not told yet
    cdef readonly int active          # length of `calls`
    cdef DeferredReleases releases    # for streams that were reset
    cdef readonly bint served         # has given a call a stream
    cdef tg_buffer inbox              # what was received and waits for another turn
    cdef bint unread                  # the kernel may hold bytes we did not read
    cdef bint hangup                  # the peer is gone: its edge does not come again
    cdef uint32_t limit               # of streams, where experience says less than the peer's SETTINGS
    cdef uint64_t heard               # when bytes came last
    cdef uint64_t pinged              # when a PING was sent last, or 0

    cdef void move(self, int state) noexcept
    # Starts connecting. 0, or -1: failed at once (nothing is left behind; the channel is not told).
    cdef int open(self) noexcept
    # Gives waiting calls streams as far as the peer's limit allows, and writes.
    cdef void flush(self) noexcept
    # Takes a call off its stream (RST_STREAM CANCEL); it is in no list then.
    cdef void abort(self, Http2Call call) noexcept
    # Defers the release for the stream that was reset last. 0, or -1: the caller gives the slot back.
    cdef int defer_release(self, DeferredRelease release) noexcept
    # The connection is over: its calls fail as `kind`; the channel is told first.
    cdef void lose(self, int kind) noexcept
    # Says goodbye as far as the kernel takes it at once, then as `lose`.
    cdef void shut_down(self, int kind) noexcept
    cdef void admit(self) noexcept
    cdef int submit(self, Http2Call call) noexcept
    cdef void end(self, Http2Call call, int fail) noexcept
    # The peer refused a stream, so it was not processed: sends it again, a few times. Whether that was possible.
    cdef bint again(self, Http2Call call) noexcept
    cdef void detach(self, Http2Call call) noexcept
    cdef void deliver(self) noexcept
    cdef void established(self) noexcept
    cdef void offer_arena(self) noexcept
    # Receives what is there, as much as one turn allows; `last`: to the end, since there is no other turn.
    cdef void pump(self, bint last) noexcept
    # False: the connection is lost.
    cdef bint take(self, const char *data, size_t n) noexcept
    cdef int send(self) noexcept
    cdef int push_gathered(self) noexcept
    cdef void retire(self) noexcept
    cdef void watch(self) noexcept
