"""One unary gRPC call: what its owner gives and gets, the request's fields and body, the reply taken apart."""

from libc.stdint cimport uint64_t
from lb.core.buffer cimport tg_buffer
from lb.core.http2 cimport h2_stream
from lb.core.link cimport tg_link
from lb.core.poller cimport Source, Timed
from lb.core.stream cimport Address, Stream, iovec
from lb.upstream.failure cimport (
    FAIL_CONNECT, FAIL_PROTOCOL, FAIL_REFUSED, FAIL_RESET, FAIL_TIMEOUT, FAIL_TOO_LARGE,
)


cdef class GrpcCall(Timed):
    # Set by the owner before `GrpcChannel.start`: the request's message without gRPC's prefix, which stays valid and
    # unchanged until a callback or `GrpcChannel.cancel`. `message_size` is the sum of the parts.
    cdef const iovec *parts
    cdef int part_count
    cdef size_t message_size
    # The answer's message; cleared by the next start, freed with the call.
    cdef tg_buffer reply

    # Exactly one of the two is called, never from inside `start`; both may start and cancel calls, this one included.
    # The answer came; `status` is its gRPC code, `message` (not always UTF-8) is valid until the call is started again.
    cdef void on_done(self, int status, const char *message, size_t n) noexcept
    cdef void on_failed(self, int kind) noexcept

    # The rest belongs to the channel and its connections.
    cdef Dispatcher dispatcher        # None: not started, or over
    cdef Stream connection            # the one whose stream this call has
    cdef tg_link link
    cdef bint queued                  # waits for a stream
    cdef int refused                  # how often, and was sent again
    cdef h2_stream stream
    cdef tg_buffer path
    cdef tg_buffer text               # the decoded grpc-message
    cdef char timeout[12]
    cdef int fail                     # 0, or what became of the call
    cdef int http
    cdef int status                   # -1: no grpc-status yet
    cdef bint is_grpc                 # content-type says so
    cdef size_t fields_size
    cdef char head[5]                 # the reply's prefix
    cdef int head_size
    cdef size_t expected
    cdef int messages

    cdef int prepare(self, const char *path, size_t n) noexcept
    cdef void prepare_body(self) noexcept
    # An event of the stream: 0, or the FAIL kind that ends the call.
    cdef int take_field(self, const char *name, size_t name_size, const char *value, size_t value_size) noexcept
    cdef int take_data(self, const char *data, size_t size, size_t limit) noexcept
    # A final header block without a gRPC content type: there is nothing to wait for.
    cdef bint hopeless(self) noexcept
    cdef void informational(self) noexcept
    # The peer has ended the stream: decide what the answer is.
    cdef void judge(self) noexcept
    # Over: let go of everything, then tell the owner.
    cdef void conclude(self) noexcept


cdef class Dispatcher(Source):
    """What calls and connections know of their channel."""
    cdef readonly Address address
    cdef readonly int active          # streams with a call
    cdef readonly int waiting         # calls without a stream yet
    cdef size_t max_reply
    cdef uint64_t connect_timeout
    cdef bytes authority
    # Keepalive: silence after which a connection with calls is asked for a sign of life, least time between two
    # questions, and how long to wait for the answer.
    cdef public uint64_t ping_after
    cdef public uint64_t ping_interval
    cdef public uint64_t ping_timeout

    cdef GrpcCall take(self)                              # the next waiting call, or None
    cdef void put_back(self, GrpcCall call) noexcept      # it goes first
    cdef void expired(self, GrpcCall call) noexcept
    cdef void opened(self, Stream connection) noexcept
    cdef void served(self) noexcept                       # a connection gave its first stream
    cdef void retired(self, Stream connection) noexcept   # takes no new calls
    cdef void lost(self, Stream connection, bint was_up) noexcept
