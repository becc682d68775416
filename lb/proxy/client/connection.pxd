"""An HTTP/1.1 connection with a client: one request after another, each with its exchange and its answer."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from lb.net.buffer cimport tg_buffer
from lb.http.head cimport Scan
from lb.http.http1 cimport Parser
from lb.proxy.exchange.admission cimport Admission
from lb.proxy.client.client cimport Client
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.client.http1_answer cimport tg_answer
from lb.proxy.client.body_rate cimport tg_body_rate


# What a connection is doing. The table of steps is in connection.pyx.
cdef enum:
    H1_NEW = 0                        # nothing has come: it may turn out to be HTTP/2, and TLS comes first
    H1_SNIFF                          # the first bytes may be HTTP/2's preface, or TLS's record of them is not complete
    H1_IDLE                           # no request is under way, and none has begun to come
    H1_HEAD                           # a request's head has begun to come
    H1_EXCHANGE                       # a request is under way
    H1_SKIP                           # the request is answered, and the rest of its body is read away
    H1_RAW                            # an upgrade was granted: both ways carry another protocol
    H1_LAST                           # the last answer is on its way: the connection closes behind it
    H1_LINGER                         # our side is shut, and what still comes is read away
    H1_CLOSED                         # closed, or handed over to HTTP/2


cdef struct tg_reader:
    # What the client sends, before and beside the parser.
    tg_buffer inbox                   # bytes received and not parsed: a head in parts, or pipelined requests
    bint unread                       # the kernel may hold bytes that were not received
    bint hangup                       # the client closed, or shut down, its side
    bint bulk                         # the last read was a large one
    uint64_t head_deadline            # for the head that has begun to come
    tg_body_rate body_rate            # of the request's body
    uint64_t body_deadline            # for the body to be fast enough
    uint64_t skip_left                # bytes of a body that is read away which may still come
    uint32_t excess                   # bytes of the request's chunks that are neither body nor what a chunk needs


cdef struct tg_closer:
    # How the connection ends.
    bint last_request                 # the client said that no request follows the one in progress
    bint last_look                    # close when one more read finds nothing
    bint looked                       # nothing came behind the last request
    bint cut                          # the last answer ends before its end, and the client has to be able to tell
    uint64_t linger_end               # when reading away ends, however much still comes


@cython.final
cdef class HttpConnection(Client):
    cdef Admission admission
    cdef unsigned char state          # H1_…, changed by `move`
    cdef Exchange exchange            # the one under way (H1_EXCHANGE and H1_RAW), else None
    cdef Parser parser                # bytes become heads and pieces of bodies
    cdef tg_reader reader
    cdef tg_answer answer             # answers become bytes in `out`
    cdef uint64_t send_deadline       # for the client to take something of what waits for it; 0 = nothing waits
    cdef tg_closer closer

    cdef void move(self, int state) noexcept

    cdef void read_loop(self) noexcept
    cdef bint takes_input(self) noexcept
    cdef bint accepts_input(self) noexcept
    cdef Py_ssize_t pass_on(self) noexcept
    cdef char *space(self, size_t *room) noexcept
    cdef void watch_record(self) noexcept
    cdef void ended(self, bint error) noexcept
    cdef void process(self, const char *data, size_t n) noexcept
    cdef bint in_excess(self, const Scan *scan, size_t taken) noexcept
    cdef void pass_raw(self, const char *data, size_t n) noexcept
    cdef bint is_http2(self, const char *data, size_t n) noexcept
    cdef void keep_bytes(self, const char *data, size_t n) noexcept

    cdef void begin(self, Scan *scan) noexcept
    cdef void refuse(self, int kind, const char *message) noexcept
    cdef void refuse_head(self, const char *head) noexcept
    cdef void await_head(self, int state) noexcept
    cdef void begin_body_rate(self) noexcept
    cdef void keep_body_rate(self, uint64_t bytes) noexcept

    cdef void check_drain(self) noexcept
    cdef bint given_up(self) noexcept
    cdef void go_on(self) noexcept

    cdef bint over(self) noexcept
    cdef int push_last(self) noexcept
    cdef void finish(self) noexcept
    cdef void read_away(self) noexcept
    cdef void close_now(self) noexcept

    # Registers the connection with the poller unless it can do without for now: False then, or if it is closed.
    cdef bint watch(self) noexcept
    cdef void set_timer(self) noexcept
