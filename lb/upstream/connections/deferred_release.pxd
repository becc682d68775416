"""Slots of an endpoint with `max_in_flight` that are not free before it has read that their requests are over.

A stream that we reset ends with a frame, which the endpoint reads when it comes to it; what another worker sends it
meanwhile on another connection it may read first. So an empty SETTINGS frame goes after the resets: frames are
processed in order, and it is acknowledged at once (RFC 9113 sections 5 and 6.5.3). With that the slots are given back,
or after a second, in which endpoints notice, if it does not come.
"""

from libc.stdint cimport uint64_t
from lb.net.poller cimport Poller, Source, Timed
from lb.net.stream cimport Stream


cdef class DeferredRelease(Timed):
    cdef uint64_t number              # of the SETTINGS whose acknowledgement releases it; 0 = not sent yet
    cdef bint released

    # Gives the slot back, once, whoever asks for it.
    cdef void release(self, uint64_t now) noexcept
    cdef void give(self, uint64_t now) noexcept  # the subclass's


cdef class DeferredReleases:
    """Those of a connection, whose own first SETTINGS has number 1."""
    cdef Poller poller
    cdef list waiting                 # in the order of their release
    cdef int unasked                  # at its end: no SETTINGS goes after their resets yet
    cdef uint64_t asked
    cdef uint64_t acknowledged

    # Keeps `release`. 0, or -1: no memory, and the caller gives the slot back.
    cdef int add(self, DeferredRelease release) noexcept
    # One SETTINGS is queued, behind the resets of all that were added.
    cdef void ask(self) noexcept
    # One is acknowledged.
    cdef void acknowledge(self) noexcept
    # The connection is over.
    cdef void release_all(self) noexcept
    cdef void settle(self, Py_ssize_t count) noexcept


cdef class DeferringChannel(Source):
    """What a pool needs to know of a channel that resets streams."""
    # The connection on which the stream was reset whose call is let go of right now; `defer_release` clears it.
    cdef Stream cutting

    # Defers the release for a call that is over. 0, or -1: nothing has to be waited for.
    cdef int defer_release(self, DeferredRelease release) noexcept
