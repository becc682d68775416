"""Calls of gRPC on an HTTP/2 connection (gRPC's PROTOCOL-HTTP2.md), of which inferences need no Python."""

from libc.stdint cimport int32_t, uint8_t, uint64_t
from backend.grpc.front cimport Front
from backend.inference.engine cimport ModelQueue
from backend.inference.inference cimport Waiter, tg_inference
from lb.http.http2.session cimport Http2Session, h2_stream
from lb.net.arena cimport View
from lb.net.buffer cimport tg_buffer
from lb.net.iovec cimport iovec
from lb.net.link cimport tg_link
from lb.net.stream cimport Stream


# What a call is.
cdef enum:
    CALL_OTHER = 0                    # Python answers it
    CALL_INFER
    CALL_STREAM                       # ModelStreamInfer

# How far a call has come. The table of steps is in call.pyx.
cdef enum:
    CALL_NEW = 0                      # its head has to come
    CALL_ASKED                        # messages come, or are worked on
    CALL_ANSWERED                     # the status is queued
    CALL_GONE                         # the stream is closed


ctypedef struct tg_incoming:
    # A message that comes (Length-Prefixed-Message).
    uint8_t head[5]
    int head_size
    char *block                       # memory of the message, so that its end is aligned
    char *data
    size_t length
    size_t came


cdef class GrpcSession(Http2Session):
    """The session of a connection, whose streams are calls."""
    cdef Front front
    cdef Stream connection            # None: it is closed
    cdef tg_link calls
    cdef tg_link over                 # calls whose memory is still referred to by what was gathered
    cdef readonly int active          # calls
    cdef list waiting                 # calls that had their turn, and have more to read
    cdef bint bulky                   # the last message to begin is large: it is read to where it belongs
    cdef size_t held                  # bytes of answers that the client has not taken
    cdef uint64_t control_due
    cdef uint64_t answers             # frames that our own DATA called forth

    cdef void setup(self, Front front, Stream connection) noexcept
    # Calls that had their turn read on.
    cdef void resume(self) noexcept
    # All was written: calls that have ended go.
    cdef void bury(self) noexcept
    # The connection is over: all calls lose their client.
    cdef void lose(self) noexcept
    cdef void detach(self, Call call) noexcept


cdef class Call(Waiter):
    cdef GrpcSession session
    cdef Front front
    cdef h2_stream stream
    cdef tg_link link                 # among those of the session
    cdef unsigned char state          # CALL_…, changed by `move`
    cdef unsigned char kind
    cdef bint ended                   # the client has sent all
    cdef bint taken                   # and all of it was read
    cdef bint headed                  # the head of the answer is queued
    cdef bint blocked                 # no message is read: too many are worked on, or too many bytes wait
    cdef bint waits                   # among those of the session that had their turn
    cdef tg_incoming incoming
    cdef tg_buffer inbox              # bytes behind the message at which the call was blocked
    cdef int messages                 # that have come whole
    cdef int turn_count               # inferences that are not answered yet
    cdef uint64_t read_at             # the poller's batch in which messages were read last
    cdef int read_count               # how many
    cdef uint64_t timeout             # ns; 0 = none was given
    cdef bint posted
    cdef bint grpc                    # by its content-type
    cdef bytes path                   # of a call that Python answers
    cdef bytes encoding
    cdef bytes trace                  # the caller's: see `traced`
    cdef object handler               # of a call that Python answers
    # The answer to a unary inference, which is written from where it lies; `held` bytes.
    cdef size_t held
    cdef tg_inference *answer
    cdef tg_buffer reply
    cdef iovec *parts

    cdef void move(self, int state) noexcept
    cdef void mark(self) noexcept
    cdef void begin(self) noexcept
    cdef void refuse_http(self) noexcept
    cdef object begin_in_python(self)
    cdef void take(self, const char *data, size_t size) noexcept
    # A message in shared memory is read there. False: it has to be copied.
    cdef bint take_view(self, View view) noexcept
    cdef int take_head(self) noexcept
    cdef void take_message(self) noexcept
    cdef int decompress(self) except? -2
    cdef object take_in_python(self, bytes message)
    cdef void take_inference(self) noexcept
    cdef bint refuse_bulky(self) noexcept
    cdef object take_irregular(self, bytes message)
    cdef void count_message(self) noexcept
    cdef void await_room(self) noexcept
    cdef object break_off(self)
    cdef void await_turn(self, tg_inference *inference) noexcept
    cdef void submit(self, ModelQueue queue, tg_inference *inference) noexcept
    cdef void end_messages(self) noexcept
    cdef void unblock(self) noexcept
    cdef int respond_head(self) noexcept
    cdef void respond_unary(self, tg_inference *inference) noexcept
    cdef void respond_turns(self) noexcept
    cdef int respond_streamed(self, tg_inference *inference) noexcept
    cdef object finish_in_python(self, tg_inference *inference)
    cdef object fields_in_python(self, tg_inference *inference, tg_buffer *fields)
    # The status, which ends the call; the text is UTF-8.
    cdef void respond_status(self, int status, const char *text, size_t size) noexcept
    cdef void end_with(self, int status, const char *text, size_t size) noexcept
    cdef void drop_turns(self) noexcept
    cdef void abandon(self) noexcept
