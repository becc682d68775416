"""One gRPC call with one message to the endpoint: what its owner gives and gets, the request's fields and body, the
reply taken apart."""

from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer
from lb.net.stream cimport iovec
from lb.upstream.connections.http2_call cimport Http2Call


cdef class GrpcCall(Http2Call):
    # Set by the owner before `Http2Channel.start`: the path, by `call_path`, and the request's message without gRPC's
    # prefix, which stays valid and unchanged until a callback or `Http2Channel.cancel`. `message_size` is the sum of
    # the parts.
    cdef const iovec *parts
    cdef int part_count
    cdef size_t message_size
    # Any number of messages may come back; `on_message` is told of each. Set by the owner before `Http2Channel.start`.
    cdef bint streams
    # The answer's message; cleared by the next start, freed with the call.
    cdef tg_buffer reply
    # The last load report of the answer (lb/upstream/load/load_report reads it), empty without one.
    cdef tg_buffer report
    cdef bint report_binary

    # Copies the path. 0, or -1: no memory.
    cdef int call_path(self, const char *path, size_t n) noexcept

    # Exactly one of the two is called, never from inside `start`; both may start and cancel calls, this one included.
    # The answer came; `status` is its gRPC code, `message` (not always UTF-8) is valid until the call is started again.
    cdef void on_done(self, int status, const char *message, size_t n) noexcept
    cdef void on_failed(self, int kind) noexcept
    # `reply` has a message, until this returns. 0, or the FAIL kind that ends the call. It may cancel the call.
    cdef int on_message(self) noexcept

    cdef tg_buffer path
    cdef tg_buffer text               # the decoded grpc-message
    cdef char timeout[12]
    cdef int http
    cdef int status                   # -1: no grpc-status yet
    cdef long pushback                # ms, or PUSHBACK_…
    cdef bint is_grpc                 # content-type says so
    cdef size_t fields_size
    cdef char head[5]                 # the reply's prefix
    cdef int head_size
    cdef size_t expected
    cdef int messages

    cdef void prepare_body(self) noexcept
    # The message is complete. As `take_data`.
    cdef int take_message(self) noexcept
