"""What an exchange needs of where its request came from: see client.pxd."""

from lb.net.arena cimport View
from lb.net.buffer cimport tg_buffer
from lb.http.head cimport Scan
from lb.net.splice cimport PASS_NOT
from lb.net.stream cimport Stream, iovec
from lb.proxy.routing.headers.forwarded cimport tg_hop_cache


cdef class Client(Stream):

    cdef Client origin(self):
        return self

    cdef tg_hop_cache *hop_cache(self) noexcept:
        return NULL

    cdef const char *scheme(self) noexcept:
        return b"http" if self.listener.tls is None else b"https"

    cdef void respond(self, Scan *scan, const tg_buffer *extra, bint last) noexcept:
        pass

    cdef void respond_whole(self, int status, const tg_buffer *head, const iovec *parts, int count) noexcept:
        pass

    cdef bint respond_own_head(self, int status, const tg_buffer *head, size_t size) noexcept:
        return False

    cdef void respond_body(self, const iovec *parts, int count) noexcept:
        pass

    cdef bint respond_view(self, View view) noexcept:
        return False

    cdef Py_ssize_t respond_through(self, Stream source, size_t size) noexcept:
        return PASS_NOT

    cdef void respond_trailers(self, Scan *scan) noexcept:
        pass

    cdef void respond_upgrade(self, Scan *scan) noexcept:
        pass

    cdef void respond_end(self) noexcept:
        pass

    cdef void abort(self) noexcept:
        pass

    cdef bint may_follow(self) noexcept:
        return False

    cdef bint put_off(self) noexcept:
        return False

    cdef void resume_request(self) noexcept:
        pass

    cdef void answered_early(self) noexcept:
        pass

    cdef void send_continue(self) noexcept:
        pass

    cdef bint outlives(self) noexcept:
        return False

    cdef bint covers(self) noexcept:
        return False

    cdef bint has_left(self) noexcept:
        return self.fd < 0

    cdef size_t backlog(self) noexcept:
        return self.pending()

    cdef void drained(self) noexcept:
        pass

    cdef void reject(self, int kind, str message, const tg_buffer *fields=NULL) noexcept:
        pass
