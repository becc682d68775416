"""One stream towards an endpoint, and what it knows of its channel: the base of all that is sent over HTTP/2."""

from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer
from lb.http.http2.session cimport Http2Session, h2_stream
from lb.http.http2.head cimport FieldList
from lb.net.arena cimport View
from lb.net.link cimport tg_link
from lb.net.stream cimport Address, Stream
from lb.upstream.attempt cimport Attempt
from lb.upstream.connections.deferred_release cimport DeferringChannel


cdef class Http2Call(Attempt):
    # The rest belongs to the channel and its connections.
    cdef Dispatcher dispatcher        # None: not started, or over
    cdef Stream connection            # the one whose stream this call has
    cdef tg_link link
    cdef bint queued                  # waits for a stream
    cdef uint64_t number              # of the channel's calls in their order
    cdef bint begun                   # something of the final answer has come
    cdef int interims                 # interim answers (1xx) that have come
    cdef bint cut                     # ended by our reset, and not told yet
    cdef int refused                  # how often, and was sent again
    cdef int fail                     # 0, or what became of the call
    cdef h2_stream stream
    cdef tg_buffer fields             # of the request, as a block, where a subclass keeps them

    # Steps of a call, for the subclasses. Those that return an int return 0 or the FAIL kind that ends the call. None
    # may start, cancel or otherwise end a call of the same connection, but for this one by `Http2Channel.cancel`.
    # The request's fields, and the body's cursor at its beginning.
    cdef int build(self, FieldList fields, uint64_t now) noexcept
    # Whether the request can be sent again, though it was handed over.
    cdef bint replayable(self) noexcept
    # Whether `take_field` does nothing but to gather the fields.
    cdef bint gathers(self) noexcept
    cdef int take_field(self, Http2Session session, const char *name, size_t name_size, const char *value,
                        size_t value_size) noexcept
    # A block of fields is complete: informational, head or trailers. `over` is set when there is nothing to wait for.
    cdef int take_fields(self, Http2Session session, bint last, bint *over) noexcept
    # `held` is how much of it the peer may not send anew until the call says so (Http2Channel.consume).
    cdef int take_data(self, const char *data, size_t size, size_t *held) noexcept
    # The same of bytes in the peer's arena.
    cdef int take_view(self, View view, size_t *held) noexcept
    # The peer has ended its side: decide what the answer is (`fail`).
    cdef void judge(self) noexcept
    # Its stream was refused, and it waits for another one there.
    cdef void sent_again(self) noexcept
    # The queue has room again.
    cdef void room(self) noexcept
    # Over and let go of: tell the owner.
    cdef void over(self) noexcept

    cdef void reset_call(self) noexcept                   # forget an earlier run
    cdef void conclude(self) noexcept


cdef class Dispatcher(DeferringChannel):
    """What calls and connections know of their channel."""
    cdef readonly Address address
    cdef readonly int active          # streams with a call
    cdef readonly int waiting         # calls without a stream yet
    cdef size_t max_reply
    cdef uint64_t connect_timeout
    cdef bytes authority
    # Keepalive: silence after which a connection with calls is asked for a sign of life, least time between two
    # questions, and how long to wait for the answer.
    cdef public uint64_t ping_after
    cdef public uint64_t ping_interval
    cdef public uint64_t ping_timeout

    cdef Http2Call take(self)                             # the next waiting call, or None
    cdef void put_back(self, Http2Call call) noexcept     # it goes before those that were started after it
    cdef void expired(self, Http2Call call) noexcept
    cdef void opened(self, Stream connection) noexcept
    # Large messages of a connection go through shared memory; or do not, for this reason.
    cdef void is_local(self) noexcept
    cdef void not_local(self, const char *problem) noexcept
    cdef void served(self) noexcept                       # a connection gave its first stream
    cdef void retired(self, Stream connection) noexcept   # takes no new calls
    cdef void lost(self, Stream connection, bint was_up) noexcept
