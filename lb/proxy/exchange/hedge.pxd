"""When a route's requests get a second attempt while the first is late."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from lb.net.timers cimport Timers
from lb.proxy.exchange.budget cimport RetryBudget


cdef enum:
    LATENCY_CELLS = 512


@cython.final
cdef class Latencies:
    """How long answers have taken to begin of late: counts in cells an eighth of an octave wide, of which half fades
    every ten seconds. In this worker; it outlives reloads."""
    cdef object __weakref__
    cdef uint64_t fades_at
    cdef uint32_t cells[LATENCY_CELLS]
    cdef readonly uint64_t total

    cdef void add(self, uint64_t now, uint64_t latency) noexcept
    # The latency in ns that `share` of them, in ten thousand, are below; 0 when there are fewer than `least`.
    cdef uint64_t quantile(self, uint64_t share, uint64_t least) noexcept
    cdef void fade(self, uint64_t now) noexcept


@cython.final
cdef class HedgePolicy:
    cdef uint64_t per_mille           # 0 = after `least`
    cdef uint64_t least               # ns
    cdef uint64_t samples
    cdef Latencies latencies
    cdef Latencies silences           # of endpoints, in thousandths of the time that one takes on average
    cdef uint64_t known               # the delay in use; 0 = too little is known
    cdef uint64_t unseen              # that, less the tick in which the poller looks
    cdef uint64_t soonest             # the same of the least delay
    cdef uint64_t patience            # the silence in use
    cdef uint64_t look_at             # from when on these two are found anew
    # As routes have it that say nothing (lb.config.plan.routes.SAFE_HEDGES).
    cdef readonly bint careful
    cdef double gain                  # share of the hedges that won, of late
    cdef int passed_over              # late requests in a row that had none, as few win
    cdef Timers timers
    cdef RetryBudget budget

    # From the sending of a request to its hedge, in ns; NEVER while too little is known.
    cdef uint64_t delay(self, uint64_t now) noexcept
    # A first attempt took so long until its answer began, or until it was given up.
    cdef void learn(self, uint64_t now, uint64_t latency) noexcept
    # The same of one that was given up: its latency is only known to be more than that.
    cdef void learn_given_up(self, uint64_t now, uint64_t latency) noexcept
    # An endpoint was silent for so many thousandths of its average until it answered, or was found stuck.
    cdef void learn_silence(self, uint64_t now, uint64_t silence) noexcept
    # Whether a late request is to have a hedge, going by what became of those before.
    cdef bint pays(self) noexcept
    cdef void ended(self, bint won) noexcept
    cdef void look(self, uint64_t now) noexcept
