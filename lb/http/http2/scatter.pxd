"""Reads DATA from the socket straight to where its bytes are wanted: readv(2) with a guess at the frames that come.

A body that is gathered in one piece comes as frames of one size, each behind its 9 bytes of header. The vector puts the
payloads side by side and the headers aside; what lies behind the body goes to the usual place. Whoever has read
compares the headers with what was guessed, and gives all parts to the session in order: it finds the payloads where
they belong.
"""

from libc.stdint cimport uint8_t
from lb.http.http2.session cimport Http2Session
from lb.net.iovec cimport iovec


cdef enum:
    SCATTER_FRAMES = 64               # most frames that are guessed
    SCATTER_PARTS = 2 * SCATTER_FRAMES + 2
    SCATTER_LEAST = 4096              # bytes of a body below which they are copied


ctypedef struct h2_scatter:
    iovec parts[2 * 64 + 2]
    int count                         # of parts; 0 = nothing is known of what comes
    size_t room                       # bytes of all parts
    uint8_t headers[64 * 9]
    uint8_t guess[64 * 9]             # what each header should be, but for its flags


# Where the next bytes of the session should go: at most `frames` frames of the body that is being read, then `rest`.
cdef void scatter_plan(h2_scatter *scatter, Http2Session session, int frames, char *rest, size_t rest_size) noexcept
# Whether part `i`, of which `size` bytes have come, is no header, or the one that was guessed.
cdef bint scatter_right(const h2_scatter *scatter, int i, size_t size) noexcept
