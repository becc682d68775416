"""nghttp2's sessions, for servers of the bench suite: its C API as of 1.52, the names without the suffix `2`, which
newer releases keep.

Functions that only touch their session may run without the GIL; whether they do is up to the callbacks the session has.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t


cdef extern from "<nghttp2/nghttp2.h>":
    ctypedef struct nghttp2_session:
        pass
    ctypedef struct nghttp2_session_callbacks:
        pass
    ctypedef struct nghttp2_option:
        pass
    ctypedef struct nghttp2_mem:
        pass
    ctypedef struct nghttp2_priority_spec:
        pass
    ctypedef struct nghttp2_nv:
        uint8_t *name
        uint8_t *value
        size_t namelen
        size_t valuelen
        uint8_t flags
    ctypedef struct nghttp2_settings_entry:
        int32_t settings_id
        uint32_t value
    ctypedef struct nghttp2_frame_hd:
        size_t length
        int32_t stream_id
        uint8_t type
        uint8_t flags
    ctypedef struct nghttp2_rst_stream:
        nghttp2_frame_hd hd
        uint32_t error_code
    ctypedef struct nghttp2_goaway:
        nghttp2_frame_hd hd
        int32_t last_stream_id
        uint32_t error_code
    ctypedef struct nghttp2_headers:
        nghttp2_frame_hd hd
        int cat
    ctypedef union nghttp2_frame:
        nghttp2_frame_hd hd
        nghttp2_headers headers
        nghttp2_rst_stream rst_stream
        nghttp2_goaway goaway
    ctypedef union nghttp2_data_source:
        int fd
        void *ptr
    ctypedef ssize_t (*nghttp2_data_source_read_callback)(
        nghttp2_session *session, int32_t stream_id, uint8_t *buf, size_t length, uint32_t *data_flags,
        nghttp2_data_source *source, void *user_data) noexcept
    ctypedef struct nghttp2_data_provider:
        nghttp2_data_source source
        nghttp2_data_source_read_callback read_callback

    enum:
        NGHTTP2_FLAG_NONE
        NGHTTP2_FLAG_END_STREAM
        NGHTTP2_FLAG_ACK
        NGHTTP2_NV_FLAG_NONE
        NGHTTP2_NV_FLAG_NO_INDEX
        NGHTTP2_NV_FLAG_NO_COPY_NAME
        NGHTTP2_NV_FLAG_NO_COPY_VALUE
        NGHTTP2_DATA_FLAG_EOF
        NGHTTP2_DATA_FLAG_NO_END_STREAM
        NGHTTP2_DATA_FLAG_NO_COPY
        NGHTTP2_DATA
        NGHTTP2_HEADERS
        NGHTTP2_PRIORITY
        NGHTTP2_RST_STREAM
        NGHTTP2_SETTINGS
        NGHTTP2_PING
        NGHTTP2_GOAWAY
        NGHTTP2_WINDOW_UPDATE
        NGHTTP2_HCAT_REQUEST
        NGHTTP2_HCAT_RESPONSE
        NGHTTP2_HCAT_HEADERS
        NGHTTP2_SETTINGS_ENABLE_PUSH
        NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS
        NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
        NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE
        NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL
        NGHTTP2_NO_ERROR
        NGHTTP2_PROTOCOL_ERROR
        NGHTTP2_INTERNAL_ERROR
        NGHTTP2_REFUSED_STREAM
        NGHTTP2_CANCEL
        NGHTTP2_ENHANCE_YOUR_CALM
        NGHTTP2_ERR_WOULDBLOCK
        NGHTTP2_ERR_DEFERRED
        NGHTTP2_ERR_NOMEM
        NGHTTP2_ERR_CALLBACK_FAILURE
        NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE
        NGHTTP2_ERR_STREAM_ID_NOT_AVAILABLE
        NGHTTP2_ERR_START_STREAM_NOT_ALLOWED

    int nghttp2_session_callbacks_new(nghttp2_session_callbacks **callbacks) nogil
    void nghttp2_session_callbacks_set_send_data_callback(
        nghttp2_session_callbacks *callbacks,
        int (*callback)(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *framehd, size_t length,
                        nghttp2_data_source *source, void *user_data) noexcept) nogil
    void nghttp2_session_callbacks_set_on_begin_headers_callback(
        nghttp2_session_callbacks *callbacks,
        int (*callback)(nghttp2_session *session, const nghttp2_frame *frame, void *user_data) noexcept) nogil
    void nghttp2_session_callbacks_set_on_header_callback(
        nghttp2_session_callbacks *callbacks,
        int (*callback)(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t namelen,
                        const uint8_t *value, size_t valuelen, uint8_t flags, void *user_data) noexcept) nogil
    void nghttp2_session_callbacks_set_on_frame_recv_callback(
        nghttp2_session_callbacks *callbacks,
        int (*callback)(nghttp2_session *session, const nghttp2_frame *frame, void *user_data) noexcept) nogil
    void nghttp2_session_callbacks_set_on_frame_send_callback(
        nghttp2_session_callbacks *callbacks,
        int (*callback)(nghttp2_session *session, const nghttp2_frame *frame, void *user_data) noexcept) nogil
    void nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
        nghttp2_session_callbacks *callbacks,
        int (*callback)(nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data, size_t length,
                        void *user_data) noexcept) nogil
    void nghttp2_session_callbacks_set_on_stream_close_callback(
        nghttp2_session_callbacks *callbacks,
        int (*callback)(nghttp2_session *session, int32_t stream_id, uint32_t error_code,
                        void *user_data) noexcept) nogil

    int nghttp2_option_new(nghttp2_option **option) nogil
    void nghttp2_option_set_no_auto_window_update(nghttp2_option *option, int value) nogil
    void nghttp2_option_set_no_closed_streams(nghttp2_option *option, int value) nogil
    int nghttp2_session_client_new2(nghttp2_session **session, const nghttp2_session_callbacks *callbacks,
                                    void *user_data, const nghttp2_option *option) nogil
    int nghttp2_session_server_new2(nghttp2_session **session, const nghttp2_session_callbacks *callbacks,
                                    void *user_data, const nghttp2_option *option) nogil
    int nghttp2_session_client_new3(nghttp2_session **session, const nghttp2_session_callbacks *callbacks,
                                    void *user_data, const nghttp2_option *option, nghttp2_mem *mem) nogil
    int nghttp2_session_server_new3(nghttp2_session **session, const nghttp2_session_callbacks *callbacks,
                                    void *user_data, const nghttp2_option *option, nghttp2_mem *mem) nogil
    void nghttp2_session_del(nghttp2_session *session) nogil
    ssize_t nghttp2_session_mem_recv(nghttp2_session *session, const uint8_t *data, size_t length) nogil
    ssize_t nghttp2_session_mem_send(nghttp2_session *session, const uint8_t **data) nogil
    int nghttp2_session_want_read(nghttp2_session *session) nogil
    int nghttp2_session_want_write(nghttp2_session *session) nogil
    void *nghttp2_session_get_stream_user_data(nghttp2_session *session, int32_t stream_id) nogil
    int nghttp2_session_set_stream_user_data(nghttp2_session *session, int32_t stream_id, void *data) nogil
    int nghttp2_session_set_local_window_size(nghttp2_session *session, uint8_t flags, int32_t stream_id,
                                              int32_t window_size) nogil
    uint32_t nghttp2_session_get_remote_settings(nghttp2_session *session, int settings_id) nogil
    int nghttp2_session_consume(nghttp2_session *session, int32_t stream_id, size_t size) nogil
    int nghttp2_session_consume_connection(nghttp2_session *session, size_t size) nogil
    int nghttp2_session_consume_stream(nghttp2_session *session, int32_t stream_id, size_t size) nogil
    int nghttp2_session_resume_data(nghttp2_session *session, int32_t stream_id) nogil
    int32_t nghttp2_session_get_last_proc_stream_id(nghttp2_session *session) nogil
    int nghttp2_session_terminate_session(nghttp2_session *session, uint32_t error_code) nogil
    int nghttp2_submit_shutdown_notice(nghttp2_session *session) nogil
    int nghttp2_submit_goaway(nghttp2_session *session, uint8_t flags, int32_t last_stream_id, uint32_t error_code,
                              const uint8_t *opaque_data, size_t opaque_data_len) nogil
    int32_t nghttp2_submit_headers(nghttp2_session *session, uint8_t flags, int32_t stream_id,
                                   const nghttp2_priority_spec *priority, const nghttp2_nv *headers, size_t count,
                                   void *stream_user_data) nogil
    int nghttp2_submit_settings(nghttp2_session *session, uint8_t flags, const nghttp2_settings_entry *entries,
                                size_t count) nogil
    int nghttp2_submit_ping(nghttp2_session *session, uint8_t flags, const uint8_t *opaque_data) nogil
    int nghttp2_submit_rst_stream(nghttp2_session *session, uint8_t flags, int32_t stream_id,
                                  uint32_t error_code) nogil
    int32_t nghttp2_submit_request(nghttp2_session *session, const nghttp2_priority_spec *priority,
                                   const nghttp2_nv *headers, size_t count, const nghttp2_data_provider *provider,
                                   void *stream_user_data) nogil
    int nghttp2_submit_response(nghttp2_session *session, int32_t stream_id, const nghttp2_nv *headers, size_t count,
                                const nghttp2_data_provider *provider) nogil
    int nghttp2_submit_trailer(nghttp2_session *session, int32_t stream_id, const nghttp2_nv *headers,
                               size_t count) nogil
    const char *nghttp2_strerror(int code) nogil
