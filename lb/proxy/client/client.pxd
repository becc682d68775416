"""What an exchange needs of where its request came from: an HTTP/1.1 connection, or a stream of an HTTP/2 one."""

from libc.stdint cimport uint16_t, uint64_t
from lb.net.arena cimport View
from lb.net.buffer cimport tg_buffer
from lb.http.head cimport Scan
from lb.net.stream cimport Stream, iovec
from lb.proxy.routing.headers.forwarded cimport tg_hop_cache
from lb.proxy.accept.listener cimport Listener


cdef class Client(Stream):
    cdef Listener listener
    cdef char ip[46]                  # text of the peer's address; "" for a Unix socket
    cdef unsigned char ip_length
    cdef uint16_t port

    # The connection or stream itself, where this stands in front of it (lb.proxy.client.relay).
    cdef Client origin(self)
    # Room to keep what the requests of this connection are given for the next hop; NULL: it has none.
    cdef tg_hop_cache *hop_cache(self) noexcept
    # How the client was spoken to: http or https.
    cdef const char *scheme(self) noexcept
    # The answer's head, taken from an endpoint's answer; `extra` is header lines to add (may be NULL). `last` says that
    # nothing follows, `status` 1xx that another head does.
    cdef void respond(self, Scan *scan, const tg_buffer *extra, bint last) noexcept
    # A complete answer of our own: `head` is "Name: value\r\n" lines besides Content-Length, `parts` its body.
    cdef void respond_whole(self, int status, const tg_buffer *head, const iovec *parts, int count) noexcept
    # The head of such an answer alone, whose body has `size` bytes and comes by `respond_body`. Whether it is to come:
    # none does for HEAD, and where the client is gone.
    cdef bint respond_own_head(self, int status, const tg_buffer *head, size_t size) noexcept
    # Body bytes of the answer begun by `respond` or `respond_own_head`; they are copied where they cannot be sent at
    # once.
    cdef void respond_body(self, const iovec *parts, int count) noexcept
    # The same of bytes in an endpoint's arena, which go from there. False: they have to be copied.
    cdef bint respond_view(self, View view) noexcept
    # Up to `size` bytes of the answer's body from the endpoint's socket to the client's, past this process: as
    # lb.net.splice's `pass_through` says; behind PASS_LOST the exchange is over.
    cdef Py_ssize_t respond_through(self, Stream source, size_t size) noexcept
    # The scan's trailers, to be sent with the end.
    cdef void respond_trailers(self, Scan *scan) noexcept
    # The endpoint granted the upgrade that the request asked for: from here on both bodies are raw bytes.
    cdef void respond_upgrade(self, Scan *scan) noexcept
    # The answer is complete. The exchange is over: the client may begin the next one before this returns.
    cdef void respond_end(self) noexcept
    # The answer cannot be completed: cut the connection (or stream) so that the client can tell.
    cdef void abort(self) noexcept
    # Whether another request may come on the same connection behind this one, which is over.
    cdef bint may_follow(self) noexcept
    # Whether this client launches the exchange later: at the end of the batch, if the request has not failed by then.
    cdef bint put_off(self) noexcept
    # The exchange can take more of the request's body again.
    cdef void resume_request(self) noexcept
    # Before `respond`: the request is not complete, and the endpoint seems to want no more of it. Where an answer ends
    # before its request without that, the rest is read away.
    cdef void answered_early(self) noexcept
    cdef void send_continue(self) noexcept
    # Its exchange goes on although it left: others wait for the answer, or a cache does.
    cdef bint outlives(self) noexcept
    # Its exchange, which holds no endpoint any more, has failed and its answer has not begun: whether another answer is
    # given, and the exchange over with it.
    cdef bint covers(self) noexcept
    # Whether nobody takes an answer any more.
    cdef bint has_left(self) noexcept
    # Bytes of the answer that wait for the client to take them.
    cdef size_t backlog(self) noexcept
    # What waited for the client to take it has gone: who stands before it goes on with what it kept.
    cdef void drained(self) noexcept
    # The request never became an exchange: it is answered as a failure of this kind (lb.failure), with a message of
    # ours; `fields` are lines to add (may be NULL).
    cdef void reject(self, int kind, str message, const tg_buffer *fields=*) noexcept
