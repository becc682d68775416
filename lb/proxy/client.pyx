"""What an exchange needs of the connection its request came on: see client.pxd."""

from lb.core.buffer cimport tg_buffer
from lb.core.http1 cimport Parser, Scan
from lb.core.stream cimport Stream, iovec


cdef class Client(Stream):

    cdef void respond(self, Scan *scan, Parser upstream, const tg_buffer *extra) noexcept:
        pass

    cdef void respond_whole(self, int status, const tg_buffer *head, const iovec *parts, int count) noexcept:
        pass

    cdef void respond_body(self, const iovec *parts, int count) noexcept:
        pass

    cdef void respond_end(self) noexcept:
        pass

    cdef void abort(self) noexcept:
        pass

    cdef void resume_request(self) noexcept:
        pass

    cdef void close_after(self) noexcept:
        pass

    cdef void send_continue(self) noexcept:
        pass

    cdef size_t backlog(self) noexcept:
        return self.pending()
