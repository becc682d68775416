"""When a request is tried again on another endpoint, as a route says it."""

from libc.stdint cimport uint64_t
from lb.net.timers cimport Timers
from lb.proxy.exchange.budget cimport RetryBudget


cdef class RetryPolicy:
    cdef readonly int attempts
    cdef readonly int on              # RETRY_… of lb.failure
    cdef readonly unsigned int codes  # set of gRPC's: a bit per code
    cdef readonly uint64_t per_attempt_timeout  # ns; 0 = none
    cdef uint64_t base                # of the pause before a retry, ns; 0 = none
    cdef uint64_t longest
    cdef readonly uint64_t patience   # longest wait for an endpoint that says when it may be asked again, ns
    cdef readonly bint careful        # as routes have it that say nothing (lb.config.plan.routes.safe_retries)
    cdef Timers timers
    cdef RetryBudget budget

    # Whether failures of `kind` (RETRY_…, or several) are among those that a retry follows.
    cdef bint names(self, int kind) noexcept
    # The same of an answer's gRPC code.
    cdef bint names_code(self, int code) noexcept
    # The pause before the retry that follows `attempts` attempts, drawn anew at each call.
    cdef uint64_t pause(self, int attempts) noexcept
