"""What makes header fields and bodies an HTTP message (RFC 9113 section 8): checked as they come, field by field."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from lb.net.buffer cimport tg_buffer
from lb.http.http2.nghttp2 cimport nghttp2_nv


ctypedef struct h2_message:
    # What one side of a stream has sent of its message.
    bint response
    bint head_request                 # of a response: the request's method was HEAD
    bint connect_request              # of a response: it was CONNECT
    bint begun                        # the head is here; informational ones do not count
    bint no_content                   # no body may come
    int64_t length                    # of the body, by Content-Length; -1 = not said
    uint64_t received                 # bytes of it


ctypedef struct h2_section:
    # The block of fields that is being read: a head or a trailer section.
    bint trailers
    bint regular                      # a field came that is no pseudo-header field
    uint32_t seen                     # pseudo-header fields and others that may come once
    int status
    bint connect
    bint options
    bint path_is_target               # begins with a slash
    bint path_is_star
    bint web_scheme                   # http or https
    int64_t length


cdef void message_begin(h2_message *message, bint response) noexcept
# What a request's method says of its answer; the fields are as those of Http2Session.submit.
cdef void message_note_method(h2_message *message, const nghttp2_nv *fields, size_t count,
                              const tg_buffer *block) noexcept
cdef void section_begin(h2_section *section, const h2_message *message) noexcept
# A field of the section; `extended` allows :protocol (RFC 8441). False: the message is malformed.
cdef bint section_field(h2_section *section, const h2_message *message, bint extended, const char *name, size_t size,
                        const char *value, size_t value_size) noexcept
# The section is complete; `last` says that it ends the message. False: malformed.
cdef bint section_end(h2_section *section, h2_message *message, bint last) noexcept
# So many bytes of the body. False: malformed.
cdef bint message_body(h2_message *message, size_t size) noexcept
# The message has ended. False: malformed.
cdef bint message_end(const h2_message *message) noexcept
