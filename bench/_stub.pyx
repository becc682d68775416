"""A gRPC server that costs next to nothing, so that what stands before it is measured: one thread, epoll, nghttp2.

It answers ModelInfer of the Open Inference Protocol with a fixed message or with the request turned into an answer (the
inputs become the outputs), ModelStreamInfer with many messages or one for each, and the small methods that gateways and
health checks call. Plain HTTP/2 requests get a fixed body.
"""

from bench._answers cimport UNKNOWN, method_of
from bench._replies cimport Request, Settings, answer, go_on, is_dialogue, return_window
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset, strerror
from posix.unistd cimport close
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_consume, tg_buffer_free, tg_buffer_head, tg_buffer_size,
)
from lb.net.link cimport link_append, link_empty, link_init, link_remove, tg_link
from bench._nghttp2 cimport *

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLET
        EPOLLRDHUP
        EPOLLHUP
        EPOLLERR
        EPOLL_CTL_ADD
        EPOLL_CLOEXEC
    ctypedef union epoll_data_t:
        void *ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        SOCK_NONBLOCK
        SOCK_CLOEXEC
        MSG_NOSIGNAL
    int accept4(int fd, void *address, void *length, int flags)
    ssize_t recv(int fd, void *data, size_t size, int flags)
    ssize_t send(int fd, const void *data, size_t size, int flags)
    int setsockopt(int fd, int level, int option, const void *value, uint32_t size)

cdef extern from "<netinet/in.h>" nogil:
    enum:
        IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        TCP_NODELAY

cdef enum:
    EVENTS = 256
    SCRATCH = 256 * 1024
    WINDOW = 4 << 20


cdef struct Connection:
    int fd
    nghttp2_session *session
    tg_buffer out
    Settings *settings
    tg_link requests                  # that have a stream


cdef tg_link FREE                     # requests to use again
link_init(&FREE)
cdef nghttp2_session_callbacks *CALLBACKS = NULL
cdef nghttp2_option *OPTIONS = NULL
cdef uint64_t SERVED = 0              # requests, by the last `serve`


cdef int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user_data) noexcept nogil:
    cdef Request *request = <Request *>nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
    if request != NULL:
        return 0                      # trailers of the request
    if not link_empty(&FREE):
        request = <Request *>FREE.next.owner
        link_remove(&request.link)
    else:
        request = <Request *>calloc(1, sizeof(Request))
        if request == NULL:
            return NGHTTP2_ERR_CALLBACK_FAILURE
        request.link.owner = request
    request.settings = (<Connection *>user_data).settings
    request.method = UNKNOWN
    request.grpc = request.head = request.begun = request.ended = False
    request.status = 0
    request.owed = 0
    request.sent = 0
    link_append(&(<Connection *>user_data).requests, &request.link)
    nghttp2_session_set_stream_user_data(session, frame.hd.stream_id, request)
    return 0


cdef int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t namelen,
                   const uint8_t *value, size_t valuelen, uint8_t flags, void *user_data) noexcept nogil:
    cdef Request *request
    if namelen != 5 and namelen != 7 and namelen != 12:
        return 0
    request = <Request *>nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
    if request == NULL:
        return 0
    if namelen == 5 and memcmp(name, b":path", 5) == 0:
        request.method = method_of(<const char *>value, valuelen)
    elif namelen == 7 and memcmp(name, b":method", 7) == 0:
        request.head = valuelen == 4 and memcmp(value, b"HEAD", 4) == 0
    elif namelen == 12 and memcmp(name, b"content-type", 12) == 0:
        request.grpc = valuelen >= 16 and memcmp(value, b"application/grpc", 16) == 0
    return 0


cdef int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data, size_t length,
                       void *user_data) noexcept nogil:
    cdef Request *request = <Request *>nghttp2_session_get_stream_user_data(session, stream_id)
    if request == NULL or not is_dialogue(request):
        if request != NULL and tg_buffer_append(&request.body, data, length) < 0:
            return NGHTTP2_ERR_CALLBACK_FAILURE
        return NGHTTP2_ERR_CALLBACK_FAILURE if nghttp2_session_consume(session, stream_id, length) else 0
    request.owed += length
    if nghttp2_session_consume_connection(session, length):
        return NGHTTP2_ERR_CALLBACK_FAILURE
    if not request.ended:
        if tg_buffer_append(&request.body, data, length) < 0 or go_on(session, stream_id, request):
            return NGHTTP2_ERR_CALLBACK_FAILURE
    return NGHTTP2_ERR_CALLBACK_FAILURE if return_window(session, stream_id, request) else 0


cdef int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user_data) noexcept nogil:
    cdef Request *request
    if not frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
        return 0
    if frame.hd.type != NGHTTP2_DATA and frame.hd.type != NGHTTP2_HEADERS:
        return 0
    request = <Request *>nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
    if request != NULL and answer(session, frame.hd.stream_id, request):
        return NGHTTP2_ERR_CALLBACK_FAILURE
    return 0


cdef void free_request(Request *request) noexcept nogil:
    if request.body.capacity > 65536:
        tg_buffer_free(&request.body)
    if request.answer.capacity > 65536:
        tg_buffer_free(&request.answer)
    tg_buffer_clear(&request.body)
    tg_buffer_clear(&request.answer)
    link_remove(&request.link)
    link_append(&FREE, &request.link)


cdef int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code,
                         void *user_data) noexcept nogil:
    cdef Request *request = <Request *>nghttp2_session_get_stream_user_data(session, stream_id)
    if request != NULL:
        free_request(request)
    return 0


cdef int setup_callbacks() noexcept nogil:
    if nghttp2_session_callbacks_new(&CALLBACKS):
        return -1
    if nghttp2_option_new(&OPTIONS):
        return -1
    # So that a stream whose answers are not read gets no window for more (see PENDING).
    nghttp2_option_set_no_auto_window_update(OPTIONS, 1)
    nghttp2_session_callbacks_set_on_begin_headers_callback(CALLBACKS, on_begin_headers)
    nghttp2_session_callbacks_set_on_header_callback(CALLBACKS, on_header)
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(CALLBACKS, on_data_chunk)
    nghttp2_session_callbacks_set_on_frame_recv_callback(CALLBACKS, on_frame)
    nghttp2_session_callbacks_set_on_stream_close_callback(CALLBACKS, on_stream_close)
    return 0


cdef void drop(Connection *connection) noexcept nogil:
    close(connection.fd)
    nghttp2_session_del(connection.session)
    while not link_empty(&connection.requests):
        free_request(<Request *>connection.requests.next.owner)
    tg_buffer_free(&connection.out)
    free(connection)


cdef int take_connection(int epoll, int fd, Settings *settings) noexcept nogil:
    """Owns `fd`. -1: dropped for want of memory or descriptors."""
    cdef epoll_event event
    cdef nghttp2_settings_entry entries[2]
    cdef int one = 1
    cdef Connection *connection = <Connection *>calloc(1, sizeof(Connection))
    if connection == NULL:
        close(fd)
        return -1
    link_init(&connection.requests)
    connection.fd = fd
    connection.settings = settings
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))      # refused by Unix sockets, which do not need it
    entries[0].settings_id = NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS
    entries[0].value = settings.max_streams
    entries[1].settings_id = NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
    entries[1].value = WINDOW
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | <uint32_t>EPOLLET
    event.data.ptr = connection
    if (nghttp2_session_server_new2(&connection.session, CALLBACKS, connection, OPTIONS)
            or nghttp2_submit_settings(connection.session, NGHTTP2_FLAG_NONE, entries, 2)
            or nghttp2_session_set_local_window_size(connection.session, NGHTTP2_FLAG_NONE, 0, 4 * WINDOW)
            or epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)):
        drop(connection)
        return -1
    return 0


cdef int write_out(Connection *connection) noexcept nogil:
    """Everything that is to be sent. -1: the connection is over."""
    cdef const uint8_t *data
    cdef ssize_t n
    while True:
        while tg_buffer_size(&connection.out) < SCRATCH:
            n = nghttp2_session_mem_send(connection.session, &data)
            if n < 0 or (n and tg_buffer_append(&connection.out, data, <size_t>n) < 0):
                return -1
            if n == 0:
                break
        if not tg_buffer_size(&connection.out):
            break
        n = send(connection.fd, tg_buffer_head(&connection.out), tg_buffer_size(&connection.out), MSG_NOSIGNAL)
        if n < 0:
            if errno == EINTR:
                continue
            return 0 if errno == EAGAIN else -1
        tg_buffer_consume(&connection.out, <size_t>n)
    if nghttp2_session_want_read(connection.session) or nghttp2_session_want_write(connection.session):
        return 0
    return -1


cdef int serve_connection(Connection *connection, uint32_t events, char *scratch) noexcept nogil:
    """-1: the connection is over."""
    cdef ssize_t n
    while events & <uint32_t>(EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        n = recv(connection.fd, scratch, SCRATCH, 0)
        if n < 0:
            if errno == EINTR:
                continue
            if errno == EAGAIN:
                break
            return -1
        if n == 0 or nghttp2_session_mem_recv(connection.session, <const uint8_t *>scratch, <size_t>n) < 0:
            return -1
        if n < SCRATCH and not events & <uint32_t>(EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            break
    return write_out(connection)


cdef int loop(int epoll, int listener, Settings *settings, char *scratch) except -1 nogil:
    """Serves until a signal handler raises or epoll fails."""
    cdef epoll_event events[EVENTS]
    cdef int count, i, fd, rounds = 0
    while True:
        count = epoll_wait(epoll, events, EVENTS, 200)
        rounds += 1
        if count <= 0 or rounds & 1023 == 0:
            with gil:
                if count < 0 and errno != EINTR:
                    raise OSError(errno, strerror(errno).decode())
                PyErr_CheckSignals()
        for i in range(count):
            if events[i].data.ptr != NULL:
                if serve_connection(<Connection *>events[i].data.ptr, events[i].events, scratch) < 0:
                    drop(<Connection *>events[i].data.ptr)
                continue
            while True:
                fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
                if fd < 0:
                    break
                take_connection(epoll, fd, settings)


cdef void set_http(Settings *settings, bytes body):
    cdef bytes digits = str(len(body)).encode()
    settings.http = body
    settings.http_size = len(body)
    settings.http_length_size = len(digits)
    memcpy(settings.http_length, <const char *>digits, settings.http_length_size)


def serve(
    listener: int, bytes fixed: bytes | None, max_streams: int, bytes streamed=None, stream_messages: int = 0,
    bytes http=None
) -> None:
    """Serve on a listening, non-blocking descriptor until a signal handler raises.

    `fixed` is the message that answers every ModelInfer; None echoes the inputs. A ModelStreamInfer gets the message
    `streamed` `stream_messages` times, or (0) once for each of its own; None echoes those. `http` is the body that
    answers plain HTTP/2; None answers 415. Raises OSError, MemoryError, ValueError: many of no message.
    """
    global SERVED
    cdef Settings settings
    cdef epoll_event event
    cdef bytes framed = prefixed(fixed), framed_stream = prefixed(streamed)
    if stream_messages and streamed is None:
        raise ValueError("a stream of messages needs the message")
    cdef char *scratch = <char *>malloc(SCRATCH)
    cdef int epoll = epoll_create1(EPOLL_CLOEXEC)
    cdef int descriptor = listener
    memset(&settings, 0, sizeof(Settings))
    if fixed is not None:
        settings.fixed = framed
        settings.fixed_size = len(framed)
    if streamed is not None:
        settings.streamed = framed_stream
        settings.streamed_size = len(framed_stream)
    if http is not None:
        set_http(&settings, http)
    settings.stream_messages = stream_messages
    settings.max_streams = max_streams
    event.events = EPOLLIN
    event.data.ptr = NULL
    try:
        if scratch == NULL or (CALLBACKS == NULL and setup_callbacks() < 0):
            raise MemoryError
        if epoll < 0 or epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event) < 0:
            raise OSError(errno, strerror(errno).decode())
        with nogil:
            loop(epoll, descriptor, &settings, scratch)
    finally:
        SERVED = settings.requests
        free(scratch)
        if epoll >= 0:
            close(epoll)


cdef bytes prefixed(bytes message):
    """As gRPC sends it: not compressed, its length, the message."""
    return None if message is None else b"\0" + len(message).to_bytes(4, "big") + message


def served() -> int:
    """Whole requests that the last `serve` got."""
    return SERVED
