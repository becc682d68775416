"""When a request is tried again: see retry.pxd.

Whether repeating does harm is the exchange's to know (method, what was sent, what came back). Here is what the route
allows, how long it waits before, and how much of it there may be (budget.pyx).

The pause has full jitter: anything from 0 to a bound that doubles with each attempt (Brooker 2015, "Exponential Backoff
and Jitter"; Envoy's retry_back_off, whose defaults these are). So clients that failed together do not come back
together.
"""

from libc.stdint cimport uint64_t
from lb.failure cimport RETRY_5XX, RETRY_CONNECT, RETRY_LIMITED, RETRY_RESET, RETRY_TIMEOUT
from lb.net.timers cimport Timers
from lb.shared.segment cimport Segment
from lb.proxy.exchange.budget cimport Counted, RetryBudget
from lb.proxy.random cimport random_below

cdef enum:
    DOUBLINGS = 30
    # Seconds before the present one whose requests count for the budget of a careful policy: an endpoint that dies
    # takes all with it that it had, which may be what came within some seconds (Finagle's retry budget, too).
    WINDOW = 10

cdef dict KINDS = {
    "connect": RETRY_CONNECT, "reset": RETRY_RESET, "5xx": RETRY_5XX, "timeout": RETRY_TIMEOUT,
    "rate-limited": RETRY_LIMITED,
}
# Envoy's names of gRPC's codes.
cdef dict CODES = {"cancelled": 1, "deadline-exceeded": 4, "resource-exhausted": 8, "internal": 13, "unavailable": 14}


cdef class RetryPolicy:
    """The retries of a plan (`RetryPlan`), with a budget by `words` of `segment`. `timers` end the pauses; without any
    there are none. A careful policy pauses only for a process that has ended. Raises OSError when they cannot."""

    def __init__(self, plan, Segment segment not None, Counted words not None, Timers timers=None):
        self.attempts = plan.attempts
        for kind in plan.on:
            if kind in CODES:
                self.codes |= <unsigned int>1 << <int>CODES[kind]
            else:
                self.on |= <int>KINDS[kind]
        self.per_attempt_timeout = plan.per_attempt_timeout_ns
        self.careful = plan.careful
        self.budget = RetryBudget(
            segment, words, plan.budget_percent, plan.budget_min, WINDOW if plan.careful else 1)
        self.timers = timers
        if timers is not None:
            timers.open()
        if timers is not None and not plan.careful:
            self.base = plan.backoff_base_ns
            self.longest = plan.backoff_max_ns
            self.patience = plan.retry_after_ns

    cdef bint names(self, int kind) noexcept:
        return (self.on & kind) != 0

    cdef bint names_code(self, int code) noexcept:
        return 0 < code < 32 and (self.codes >> code) & 1

    cdef uint64_t pause(self, int attempts) noexcept:
        cdef uint64_t bound
        if self.base == 0:
            return 0
        bound = min(self.base << min(max(attempts - 1, 0), <int>DOUBLINGS), self.longest)
        return random_below(bound + 1)
