"""Which of the streams that are opened in a piece of input are reset further on in it.

A client that opens streams and resets them at once (CVE-2023-44487) costs no more than its frames where they are read
together; a request that has begun costs an exchange, and often a connection to an endpoint. So the frame headers
(RFC 9113 section 4.1) are looked over before the frames are taken.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

ctypedef struct tg_frames:
    uint64_t skip                     # bytes before the next frame header
    uint8_t header[9]
    uint8_t have                      # bytes of `header`


# At the start of a client's connection, before its preface.
cdef void frames_begin(tg_frames *frames) noexcept
# Looks over the next `size` bytes; whether there are resets among them, which `reset_ahead` knows until the next look.
cdef bint frames_look(tg_frames *frames, const char *data, size_t size) noexcept
# Bytes that all looks of this process went over.
cdef uint64_t frames_looked() noexcept
# Whether the last look saw a reset of the stream. To be asked only if it saw any.
cdef bint reset_ahead(uint32_t stream) noexcept
