"""HTTP/1.x messages in both directions, parsed by llhttp. Bytes in, a `Scan` (lb.http.head) out: no I/O, no routes.

A head is always parsed in one piece: when it is not complete, the caller keeps its bytes and offers them again with
more behind them.
"""

from libc.stdint cimport uint8_t, uint16_t, uint64_t
from lb.http.head cimport Scan, Trailers


cdef extern from "<llhttp.h>" nogil:
    ctypedef struct llhttp_settings_t:
        pass
    ctypedef struct llhttp_t:
        uint64_t content_length
        uint8_t type
        uint8_t method
        uint8_t http_major
        uint8_t http_minor
        uint16_t flags
        uint16_t status_code
        uint8_t upgrade
        void *data


cdef class Parser:
    """The parse state of one side of one connection: 100 bytes of llhttp."""
    cdef llhttp_t http
    cdef bint reading_body            # the head was complete: execute goes on where it stopped
    cdef bint headless                # responses: the request was HEAD
    cdef Trailers trailers
    cdef const char *why              # what was wrong, after an error

    # Begin a new message.
    cdef void reset(self) noexcept
    # Parses data; returns how many bytes were consumed, or -1 (scan.error, self.why). When `reading_body` is still
    # unset afterwards the head is incomplete, nothing was consumed, and all the bytes must be offered again with more.
    # Stops behind a complete message (scan.complete), and when scan.spans is full: call again then with the rest.
    cdef Py_ssize_t execute(self, Scan *scan, const char *data, size_t n) noexcept
    # The peer's end of file: 0 fine here (scan.complete is set when it ends a message), -1 inside of a message.
    cdef int finish(self, Scan *scan) noexcept
    cdef bint keep_alive(self) noexcept
    # Inside of a body whose length was announced: `http.content_length` bytes of it are still to come.
    cdef bint has_length(self) noexcept
    cdef Py_ssize_t consumed(self, Scan *scan, Py_ssize_t n) noexcept
    cdef int execute_other(self, Scan *scan, const char *data, size_t n) noexcept


cdef Parser new_request_parser()
cdef Parser new_response_parser()
