"""Requests that wait before their exchange has an endpoint: head and body are kept, and handed on behind the wait."""

from lb.http.head cimport Scan
from lb.http.kept_head cimport tg_kept_head
from lb.net.buffer cimport tg_buffer
from lb.net.poller cimport Timed
from lb.proxy.exchange.exchange cimport BodySource, Exchange

# Goes on with an exchange behind its wait; `admission` is what `park` was given.
ctypedef void (*go_on_type)(object admission, Exchange exchange, Scan *scan) noexcept


cdef class Parked(BodySource)


cdef class Wait(Timed):
    """What a parked exchange waits for: a time, for which it is armed, or what others find out. Its deallocation takes
    it off a wheel."""
    cdef Parked parked                # whose exchange waits for it; None: no exchange does, not yet or not any more

    # The exchange has ended before its wait, and `parked` is None: what the wait has taken is given back.
    cdef void called_off(self, Exchange exchange) noexcept


cdef class Parked(BodySource):
    """The source of an exchange that waits. The exchange stays new (X_NEW) and has no endpoint. Its body is kept as it
    comes, up to a bound from which on the client has to wait with more."""
    cdef Exchange exchange            # None: it does not wait any more
    cdef Wait wait                    # None: likewise
    cdef BodySource real              # the source that the exchange has once it goes on; None: its body is plain
    cdef object admission
    cdef go_on_type go_on             # NULL: it is refused behind its wait, and nothing of it is kept
    cdef tg_kept_head head
    cdef tg_buffer body
    cdef bint complete                # all of the body has come

    # The request as if it had come at once: its head, and as much of its body as is here, which `resume` hands over.
    # Valid until the next call, of any parked request of this process.
    cdef Scan *request(self) noexcept
    # The wait is over: the exchange has the source again that it had before.
    cdef void release(self) noexcept
    # Goes on with `exchange`, which was released; `scan` is of `request`.
    cdef void resume(self, Exchange exchange, Scan *scan) noexcept


# The exchange, whose head `scan` is, waits for `wait`. 0, or -1: no memory, and nothing has changed.
cdef int park(Exchange exchange, const Scan *scan, Wait wait, object admission, go_on_type go_on) noexcept
# The same for an exchange that is refused behind its wait: its source has been left. 0, or -1: no memory, and nothing
# has changed.
cdef int hold(Exchange exchange, Wait wait) noexcept
