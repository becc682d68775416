"""What the two sides of an HTTP/2 connection say of it and of its streams as such (RFC 9113 section 6): settings,
windows, resets, pings, farewells."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from lb.http.http2.frames cimport h2_frame
from lb.http.http2.sender cimport Http2Sender, h2_options
from lb.http.http2.streams cimport h2_entry


cdef enum:
    # What `on_control` counts: frames that cost us work and the peer next to nothing.
    H2_PING_FRAME = 0
    H2_SETTINGS_FRAME
    H2_RESET_FRAME                    # of a stream that was open
    H2_FAULT_FRAME                    # that made us reset its stream (CVE-2025-8671)
    H2_EMPTY_FRAME                    # DATA without bytes and without END_STREAM
    H2_WINDOW_FRAME                   # WINDOW_UPDATE
    H2_BOMB_FRAME                     # the end of a header block that decodes to many times our limit
    H2_OTHER_FRAME                    # what is ignored, among it what crossed the end of its stream
    H2_CONTROLS

cdef enum:
    # Of `work`: a request to an endpoint may be given up, and its connection with it. No honest peer makes us.
    H2_FAULT_WORK = 128


cdef class Http2Control(Http2Sender):
    cdef bint greeted                 # the peer's SETTINGS have come
    cdef bint acknowledged            # the peer has taken ours over
    # What may still be done in this turn for what the peer sends: `feed` stops when it is spent. Whoever has set it
    # once sets it anew for each turn; a session begins with more than it ever needs.
    cdef int work
    cdef int64_t room                 # bytes that the peer may send on all streams together
    cdef int32_t last_id              # the highest number of a stream that the peer has opened
    cdef int32_t taken_id             # and of one that was taken

    # Makes the session and queues the connection preface (of a client) and our SETTINGS. 0 or -1 (no memory).
    cdef int begin(self, bint server, const h2_options *options) noexcept
    cdef int ping(self) noexcept
    # Queues SETTINGS that changes nothing: its acknowledgement says that the peer has read all before it. 0 or -1.
    cdef int ask(self) noexcept
    # A server's two steps of leaving (RFC 9113 section 6.8): a warning, after which streams are still taken, and the
    # last word: streams that were opened until now are still answered.
    cdef void warn_shutdown(self) noexcept
    cdef void stop_streams(self) noexcept
    # Queues GOAWAY `code` and ends the session.
    cdef void terminate(self, uint32_t code) noexcept

    cdef int goaway(self, int32_t last, uint32_t code) noexcept
    cdef int pong(self, const uint8_t *payload) noexcept
    # Whether nobody has opened the stream yet.
    cdef bint idle(self, int32_t id) noexcept
    # HEADERS or DATA of `length` bytes on a stream that is closed (section 5.1).
    cdef void take_late(self, int32_t id, bint data, uint32_t length, bint last) noexcept
    # The peer has ended a stream that is closed.
    cdef void end_late(self, int32_t id) noexcept
    # An error of the stream (section 5.4.2).
    cdef void fail_stream(self, h2_entry *entry, uint32_t code) noexcept
    # A frame of the peer. 0, or -1 (no memory); what is wrong with it ends the stream or the session.
    cdef int take_settings(self, const h2_frame *frame, const uint8_t *payload) noexcept
    cdef int take_setting(self, uint32_t name, uint32_t value, uint32_t *window) noexcept
    cdef int move_windows(self, int64_t by, bint ours) noexcept
    cdef int take_reset(self, const h2_frame *frame, const uint8_t *payload) noexcept
    cdef int take_goaway(self, const h2_frame *frame, const uint8_t *payload) noexcept
    cdef int take_window(self, const h2_frame *frame, const uint8_t *payload) noexcept

    # Events: see Http2Session.
    cdef void on_settings(self) noexcept
    cdef void on_acknowledged(self) noexcept              # one of our SETTINGS
    cdef void on_goaway(self, int32_t last_stream, uint32_t code) noexcept
    # A frame of `kind` (H2_PING_FRAME and its like) has come.
    cdef void on_control(self, int kind) noexcept
