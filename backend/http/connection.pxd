"""A connection of HTTP/1.1, whose requests are answered one after another; one of HTTP/2 begins here, too."""

from libc.stdint cimport uint64_t
from backend.grpc.front cimport Front
from backend.inference.engine cimport ModelQueue
from backend.inference.inference cimport Waiter, tg_inference
from lb.http.codings cimport tg_accepted
from lb.http.head cimport Scan
from lb.http.http1 cimport Parser
from lb.inference.request cimport InferRequest, Reading
from lb.inference.response cimport InferResponse
from lb.net.buffer cimport tg_buffer
from lb.net.iovec cimport iovec
from lb.net.stream cimport Stream
from lb.net.work cimport Work


# How far the request of a connection has come. The table of steps is in connection.pyx.
cdef enum:
    HTTP_HEAD = 0                     # a head has to come
    HTTP_BODY                         # the body has to come
    HTTP_ASKED                        # the answer is under way
    HTTP_LAST                         # no request comes any more: the connection closes when all is written
    HTTP_CLOSED


cdef class HttpConnection(Stream):
    cdef unsigned char state          # HTTP_…, changed by `move`
    cdef Front front
    cdef Parser parser
    cdef HttpRequest request          # None: none has begun
    cdef tg_buffer inbox              # what was received and not parsed yet
    cdef bint spoken                  # it is HTTP/1: a head was parsed
    cdef bint unread                  # the kernel may hold bytes that were not read
    cdef bint keep_alive
    cdef bint going                   # the request under way, if there is one, is the last
    cdef uint64_t moved_at            # when what the client sends, or takes, moved last; 0 = it owes nothing

    cdef void move(self, int state) noexcept
    cdef void read_loop(self) noexcept
    cdef void parse(self) noexcept
    cdef void begin(self, const Scan *scan) noexcept
    cdef void refuse(self, int status, const char *text) noexcept
    # The answer to the request: `fields` are further lines of its head; NULL: none.
    cdef void respond(self, int status, const char *content_type, const tg_buffer *fields, const iovec *parts,
                      int count, size_t size) noexcept
    cdef void end_request(self) noexcept
    cdef void set_timer(self) noexcept
    cdef void close_now(self) noexcept


cdef class HttpWork(Work):
    """The reading of a request's body: a body may be of any size, and other requests wait for the loop."""
    cdef HttpRequest request


cdef class HttpRequest(Waiter):
    """One request: an inference, or what Python answers."""
    cdef Front front
    cdef HttpConnection connection    # None: nobody waits for the answer any more
    cdef bytes method
    cdef bytes target
    cdef bytes model                  # of an inference; None: Python answers
    cdef bytes version
    cdef bytes encoding               # of the body; None: it has none
    cdef bytes trace                  # the caller's: see `traced`
    cdef tg_accepted accepted         # encodings of the answer
    cdef Py_ssize_t json_length       # Inference-Header-Content-Length; -1 = none
    cdef tg_buffer body
    cdef object pieces                # iterator over the body without its encoding, while it is taken off
    cdef tg_buffer plain              # those of them that have come
    cdef Reading reading              # of an inference, while it is made
    cdef InferRequest infer
    # Its message as one block, while it is joined: see `message_memory`.
    cdef char *block
    cdef char *message
    cdef size_t joined                # bytes
    cdef int part                     # of `infer` that comes next
    cdef size_t of_part               # bytes of it that are joined
    cdef object generates             # lb.inference.generate.Target of a generate request; None: it is none
    cdef object task                  # of Python, which answers

    cdef object run(self)
    cdef void fail(self, object error) noexcept
    cdef bint read(self, uint64_t until) except -1
    cdef bint decode_body(self, uint64_t until) except -1
    cdef object start_reading(self)
    cdef bint join_parts(self, uint64_t until) except -1
    cdef object run_inference(self)
    cdef object run_in_python(self)
    cdef InferRequest raw_request(self)
    cdef void submit(self, ModelQueue queue, tg_inference *inference) noexcept
    cdef object respond(self, tg_inference *inference)
    cdef object respond_generated(self, InferResponse response)
    cdef void abandon(self) noexcept
