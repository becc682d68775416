"""gRPC-Web (grpc/grpc: doc/PROTOCOL-WEB.md) to gRPC and back. Bytes in, bytes out; nothing is kept but three bytes.

A request's frames are gRPC's own: binary ones pass as they are, text ones through `web_decode`. An answer's frames pass
likewise, and its trailers follow in its body as one more frame, made by `web_trailers`.
"""

from lb.net.buffer cimport tg_buffer
from lb.net.stream cimport iovec


cdef enum:
    WEB_NONE = 0                      # not gRPC-Web
    WEB_BINARY = 1                    # application/grpc-web
    WEB_TEXT = 2                      # application/grpc-web-text: all of the body in base64

cdef enum:
    WEB_OK = 0
    WEB_NO_MEMORY = -1
    WEB_MALFORMED = -2                # not base64, or it ends within a group

cdef struct tg_web_decoder:           # zeroed = at the beginning
    unsigned char group[4]            # values of a group that has not come whole
    int count


# What a Content-Type names. `*format` is what follows, such as "+proto", to be put behind "application/grpc" for the
# endpoint; it lies in the text.
cdef int web_kind(const char *type, size_t n, const char **format, size_t *format_length) noexcept nogil
# Decodes the next piece of a text body to the end of `out`. Padding may stand behind any group, since a sender
# encodes each of its writes for itself. WEB_*.
cdef int web_decode(tg_web_decoder *decoder, const char *data, size_t n, tg_buffer *out) noexcept nogil
# The body is over: WEB_OK, or WEB_MALFORMED when its last group is not whole.
cdef int web_decode_end(const tg_web_decoder *decoder) noexcept nogil
# Encodes one write of a text body, padded, so that all of it can be read at once. WEB_OK or WEB_NO_MEMORY.
cdef int web_encode(const iovec *parts, int count, tg_buffer *out) noexcept nogil
# Begins the trailers' frame at the end of `out`: append lines "name: value\r\n" with names in lower case, then end it
# with what this gave. Negative: WEB_NO_MEMORY.
cdef Py_ssize_t web_trailers_begin(tg_buffer *out) noexcept nogil
cdef void web_trailers_end(tg_buffer *out, Py_ssize_t begun) noexcept nogil
