"""A request of the stub model server and how its answer is produced, frame by frame as the client's window allows.

Four kinds: a gRPC call with one answer, a call whose one request is answered by many messages, a call whose messages
are each answered as they come, and plain HTTP.
"""

from bench._answers cimport STREAM, fill, stream_answer
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from lb.net.buffer cimport tg_buffer, tg_buffer_clear, tg_buffer_consume, tg_buffer_head, tg_buffer_size
from lb.net.link cimport tg_link
from bench._nghttp2 cimport *

cdef extern from "<nghttp2/nghttp2.h>" nogil:
    int nghttp2_session_consume_stream(nghttp2_session *session, int32_t stream_id, size_t size)
    int nghttp2_session_resume_data(nghttp2_session *session, int32_t stream_id)

cdef enum:
    STATIC = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE
    # A stream whose client does not read gets no window for more once so many bytes of answers wait.
    PENDING = 256 * 1024


cdef struct Settings:
    const char *fixed                 # the whole answer to ModelInfer, with its prefix; NULL = echo
    size_t fixed_size
    const char *streamed              # each message of an answer to ModelStreamInfer, with its prefix; NULL = echo
    size_t streamed_size
    uint64_t stream_messages          # that answer a ModelStreamInfer; 0 = one for each of its messages
    const char *http                  # the body that answers plain HTTP; NULL = 415
    size_t http_size
    char http_length[24]              # as digits
    size_t http_length_size
    uint32_t max_streams
    uint64_t requests


cdef struct Request:
    tg_link link
    Settings *settings
    int method                        # what the path asks for
    bint grpc
    bint head                         # HTTP HEAD: an answer without a body
    bint begun                        # the headers of the answer are submitted
    bint ended                        # no more messages will come
    int status                        # of gRPC
    size_t owed                       # bytes that came and for which the client has not got window back
    uint64_t sent                     # bytes of the answer
    tg_buffer body
    tg_buffer answer


cdef inline void field(nghttp2_nv *nv, const char *name, size_t n, const char *value, size_t m) noexcept nogil:
    nv.name = <uint8_t *>name
    nv.namelen = n
    nv.value = <uint8_t *>value
    nv.valuelen = m
    nv.flags = STATIC


cdef inline void status_field(nghttp2_nv *nv, int status) noexcept nogil:
    cdef const char *codes = b"0123456789"
    if status < 10:
        field(nv, b"grpc-status", 11, codes + status, 1)
    else:
        field(nv, b"grpc-status", 11, b"12" if status == 12 else b"13", 2)


# The end of a message stream: no more data, and trailers.
cdef inline int finish(nghttp2_session *session, int32_t stream_id, int status, uint32_t *data_flags) noexcept nogil:
    cdef nghttp2_nv trailer
    data_flags[0] |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM
    status_field(&trailer, status)
    return nghttp2_submit_trailer(session, stream_id, &trailer, 1)


cdef inline ssize_t read_answer(nghttp2_session *session, int32_t stream_id, uint8_t *buf, size_t length,
                                uint32_t *data_flags, nghttp2_data_source *source, void *user_data) noexcept nogil:
    cdef Request *request = <Request *>source.ptr
    cdef size_t n = min(length, tg_buffer_size(&request.answer) - <size_t>request.sent)
    memcpy(buf, tg_buffer_head(&request.answer) + request.sent, n)
    request.sent += n
    if request.sent == tg_buffer_size(&request.answer) and finish(session, stream_id, 0, data_flags):
        return NGHTTP2_ERR_CALLBACK_FAILURE
    return <ssize_t>n


# The same message again and again: nothing is kept per stream but how far it is.
cdef inline ssize_t read_repeated(nghttp2_session *session, int32_t stream_id, uint8_t *buf, size_t length,
                                  uint32_t *data_flags, nghttp2_data_source *source,
                                  void *user_data) noexcept nogil:
    cdef Request *request = <Request *>source.ptr
    cdef const Settings *settings = request.settings
    cdef uint64_t total = settings.stream_messages * settings.streamed_size
    cdef size_t done = 0, at, n
    while done < length and request.sent < total:
        at = <size_t>(request.sent % settings.streamed_size)
        n = min(length - done, settings.streamed_size - at)
        memcpy(buf + done, settings.streamed + at, n)
        done += n
        request.sent += n
    if request.sent == total and finish(session, stream_id, 0, data_flags):
        return NGHTTP2_ERR_CALLBACK_FAILURE
    return <ssize_t>done


# Answers the whole messages that came, as long as not too many answers wait to be read.
cdef inline void answer_messages(Request *request) noexcept nogil:
    cdef const uint8_t *head
    cdef size_t size
    while not request.status and tg_buffer_size(&request.body) >= 5 and tg_buffer_size(&request.answer) < PENDING:
        head = <const uint8_t *>tg_buffer_head(&request.body)
        size = 5 + (<size_t>head[1] << 24 | <size_t>head[2] << 16 | <size_t>head[3] << 8 | <size_t>head[4])
        if tg_buffer_size(&request.body) < size:
            break
        request.status = stream_answer(&request.answer, head, size, request.settings.streamed,
                                       request.settings.streamed_size)
        tg_buffer_consume(&request.body, size)
    if request.ended and not request.status and tg_buffer_size(&request.answer) == 0 and tg_buffer_size(&request.body):
        request.status = 13                          # a message that is cut off
    if request.status:
        request.ended = True
        tg_buffer_clear(&request.body)


# Lets the client send on, unless it leaves too many answers unread.
cdef inline int return_window(nghttp2_session *session, int32_t stream_id, Request *request) noexcept nogil:
    if request.owed and tg_buffer_size(&request.answer) < PENDING:
        if nghttp2_session_consume_stream(session, stream_id, request.owed):
            return -1
        request.owed = 0
    return 0


# What has been answered so far; more may come.
cdef inline ssize_t read_dialogue(nghttp2_session *session, int32_t stream_id, uint8_t *buf, size_t length,
                                  uint32_t *data_flags, nghttp2_data_source *source,
                                  void *user_data) noexcept nogil:
    cdef Request *request = <Request *>source.ptr
    cdef size_t n = min(length, tg_buffer_size(&request.answer))
    if n:
        memcpy(buf, tg_buffer_head(&request.answer), n)
        tg_buffer_consume(&request.answer, n)
        answer_messages(request)
        if return_window(session, stream_id, request) < 0:
            return NGHTTP2_ERR_CALLBACK_FAILURE
    if tg_buffer_size(&request.answer) == 0:
        if request.ended:
            if finish(session, stream_id, request.status, data_flags):
                return NGHTTP2_ERR_CALLBACK_FAILURE
        elif n == 0:
            return NGHTTP2_ERR_DEFERRED
    return <ssize_t>n


cdef inline ssize_t read_http(nghttp2_session *session, int32_t stream_id, uint8_t *buf, size_t length,
                              uint32_t *data_flags, nghttp2_data_source *source, void *user_data) noexcept nogil:
    cdef Request *request = <Request *>source.ptr
    cdef size_t n = min(length, request.settings.http_size - <size_t>request.sent)
    memcpy(buf, request.settings.http + request.sent, n)
    request.sent += n
    if request.sent == request.settings.http_size:
        data_flags[0] |= NGHTTP2_DATA_FLAG_EOF
    return <ssize_t>n


# Submits the head of a gRPC answer, and with it the status if it failed before there was a message.
cdef inline int begin(nghttp2_session *session, int32_t stream_id, Request *request,
                      nghttp2_data_source_read_callback reader) noexcept nogil:
    cdef nghttp2_data_provider provider
    cdef nghttp2_nv fields[3]
    request.begun = True
    field(&fields[0], b":status", 7, b"200", 3)
    field(&fields[1], b"content-type", 12, b"application/grpc", 16)
    if request.status and tg_buffer_size(&request.answer) == 0:
        status_field(&fields[2], request.status)
        return nghttp2_submit_response(session, stream_id, fields, 3, NULL)
    provider.source.ptr = request
    provider.read_callback = reader
    return nghttp2_submit_response(session, stream_id, fields, 2, &provider)


# Whether each message of the request is answered as it comes.
cdef inline bint is_dialogue(const Request *request) noexcept nogil:
    return request.method == STREAM and request.grpc and not request.settings.stream_messages


# More of a dialogue came, or its end. 0, or a code of nghttp2.
cdef inline int go_on(nghttp2_session *session, int32_t stream_id, Request *request) noexcept nogil:
    answer_messages(request)
    if request.begun:
        nghttp2_session_resume_data(session, stream_id)      # refused unless it waits for this
        return 0
    if not request.ended and tg_buffer_size(&request.answer) == 0:
        return 0
    return begin(session, stream_id, request, read_dialogue)


# The whole request is there. 0, or a code of nghttp2.
cdef inline int answer(nghttp2_session *session, int32_t stream_id, Request *request) noexcept nogil:
    cdef Settings *settings = request.settings
    settings.requests += 1
    if not request.grpc:
        return answer_http(session, stream_id, request)
    if is_dialogue(request):
        request.ended = True
        return go_on(session, stream_id, request)
    if request.method == STREAM:
        request.status = 0 if tg_buffer_size(&request.body) >= 5 else 13
        return begin(session, stream_id, request, read_repeated)
    request.status = fill(&request.answer, request.method, <const uint8_t *>tg_buffer_head(&request.body),
                          tg_buffer_size(&request.body), settings.fixed, settings.fixed_size)
    if request.status:
        tg_buffer_clear(&request.answer)
    return begin(session, stream_id, request, read_answer)


cdef inline int answer_http(nghttp2_session *session, int32_t stream_id, Request *request) noexcept nogil:
    cdef nghttp2_data_provider provider
    cdef nghttp2_nv fields[3]
    cdef Settings *settings = request.settings
    if settings.http == NULL:
        field(&fields[0], b":status", 7, b"415", 3)  # as gRPC wants it: the content type is not its own
        return nghttp2_submit_response(session, stream_id, fields, 1, NULL)
    provider.source.ptr = request
    provider.read_callback = read_http
    field(&fields[0], b":status", 7, b"200", 3)
    field(&fields[1], b"content-type", 12, b"application/json", 16)
    field(&fields[2], b"content-length", 14, settings.http_length, settings.http_length_size)
    return nghttp2_submit_response(session, stream_id, fields, 3, NULL if request.head else &provider)
