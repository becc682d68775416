"""Questions to authorization servers: an exchange waits for what one of them decides about its request."""

from libc.stdint cimport uint64_t
from lb.endpoints.choice cimport Choice
from lb.http.head cimport Scan
from lb.net.buffer cimport tg_buffer
from lb.net.poller cimport Poller
from lb.net.tls.session cimport Tls
from lb.proxy.access.known cimport Known
from lb.proxy.access.provider cimport Provider
from lb.proxy.access.server cimport AuthServer, tg_asker
from lb.upstream.attempt cimport Attempt
from lb.upstream.excluded cimport tg_excluded
from lb.upstream.pool cimport Pool
from lb.upstream.queue cimport Waiter

# Tells one who waits what was found. From the poller, never from inside of `ask_server`.
ctypedef void (*told_type)(object waiter, Provider provider, Known found) noexcept


cdef class AuthQuestion(Waiter):
    """One question, for all who wait for its answer."""
    cdef Provider provider
    cdef AuthServer server
    cdef Poller poller
    cdef tg_buffer text               # what the server is asked
    cdef bytes digest                 # what the decision is remembered by; None: it is not
    cdef list waiting
    cdef told_type told
    cdef Attempt call                 # None: none is under way
    cdef int attempts
    cdef Pool pool                    # of the last one, and its endpoint there
    cdef int last
    cdef int charged                  # load that it adds there
    cdef tg_excluded *excluded
    cdef uint64_t until               # when it has to be answered
    cdef bint begun                   # `ask_server` is over: what is found has to be told
    cdef bint over
    cdef Known found                  # before that

    cdef void attempt(self) noexcept
    cdef void send(self, int endpoint) noexcept
    cdef Choice choice(self, uint64_t now)
    cdef int take(self, Choice choice) noexcept
    # The call is over without a decision. `again`: another endpoint may have one.
    cdef void failed(self, str why, bint again) noexcept
    cdef void conclude(self, Known found) noexcept
    # One who waits has left.
    cdef void leave(self, object waiter) noexcept


# What was decided about such a request and is remembered, or None.
cdef Known recall(Provider provider, Scan *scan, const tg_asker *asker, Tls tls, uint64_t now)
# Has the server asked. A Known where the answer is here at once (a failure), else the AuthQuestion that `waiter` waits
# for: `told` will be called.
cdef object ask_server(Provider provider, Poller poller, Scan *scan, const tg_asker *asker, Tls tls, object waiter,
                       told_type told)
