"""Sequences: inferences of one model that run one after another, and the state between them."""

from libc.stdint cimport uint64_t
from backend.inference.inference cimport tg_inference, tg_kept
from backend.inference.model cimport Served
from lb.net.link cimport tg_link
from lb.net.poller cimport Timed
from lb.net.timers cimport Timers


cdef class InferenceSequence:
    cdef tg_kept kept
    cdef bytes key
    cdef tg_link link                 # among those without an inference
    cdef tg_link held                 # inferences behind the one that waits or runs
    cdef int pending                  # inferences that are not over
    cdef bint busy                    # one waits in the queue, or runs
    cdef bint closed                  # no inference is added
    cdef uint64_t rested              # when its last inference was over (monotonic ns)


cdef class Sequences(Timed):
    """Those of one model that are open. Belongs to one loop."""
    cdef Served served
    cdef Timers timers
    cdef int most
    cdef uint64_t idle                # ns
    cdef dict open                    # key -> InferenceSequence
    cdef tg_link resting              # those without an inference, the one that rests longest first

    # The inference is its sequence's from now on. False: it is refused, and says why.
    cdef bint enter(self, tg_inference *inference, uint64_t now) noexcept
    cdef object find(self, tg_inference *inference, uint64_t now)
    # The inference is over, or will never run; its sequence is not its own any more.
    cdef void leave(self, tg_inference *inference, uint64_t now) noexcept
    # No inference is added.
    cdef void close_one(self, InferenceSequence sequence) noexcept
    cdef object refuse(self, tg_inference *inference, int status, str text)
    cdef object refuse_unknown(self, tg_inference *inference, str why)
    cdef void arm(self) noexcept
