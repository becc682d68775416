"""When a request is tried again: see retry.pxd.

Whether repeating does harm is the exchange's to know (method, what was sent, what came back). Here is what the route
allows, and how much of it: retries are what finishes off a pool that is overloaded, so that they may be at most a share
of the requests (Google SRE book, "Handling Overload"; Envoy's retry_budget).
"""

from libc.stdint cimport uint64_t

cdef enum:
    SECOND_NS = 1_000_000_000

cdef dict KINDS = {"connect": RETRY_CONNECT, "reset": RETRY_RESET, "5xx": RETRY_5XX, "timeout": RETRY_TIMEOUT}


cdef class RetryPolicy:
    """The retries of a plan (`RetryPlan`)."""

    def __init__(self, plan):
        self.attempts = plan.attempts
        for kind in plan.on:
            self.on |= <int>KINDS[kind]
        self.per_try_timeout = plan.per_try_timeout_ns
        self.percent = plan.budget_percent
        self.least = plan.budget_min

    cdef void turn(self, uint64_t now) noexcept:
        """Goes on to the current second."""
        cdef uint64_t second = now // SECOND_NS
        if second == self.second:
            return
        if second == self.second + 1:
            self.asked[1] = self.asked[0]
            self.retried[1] = self.retried[0]
        else:
            self.asked[1] = 0
            self.retried[1] = 0
        self.asked[0] = 0
        self.retried[0] = 0
        self.second = second

    cdef void begin(self, uint64_t now) noexcept:
        self.turn(now)
        self.asked[0] += 1

    cdef bint names(self, int kind) noexcept:
        return (self.on & kind) != 0

    cdef bint allows(self, int kind, uint64_t now) noexcept:
        if not self.on & kind:
            return False
        self.turn(now)
        if self.percent < 100 and self.retried[0] >= self.least:
            if (self.retried[0] + self.retried[1] + 1) * 100 > (self.asked[0] + self.asked[1]) * self.percent:
                return False
        self.retried[0] += 1
        return True


cdef bint is_retryable(int status) noexcept nogil:
    return 502 <= status <= 504


class Budget:
    """A RetryPolicy for tests, with the time as an argument in nanoseconds."""

    def __init__(self, plan):
        self.policy = RetryPolicy(plan)

    def begin(self, now):
        (<RetryPolicy>self.policy).begin(now)

    def allows(self, kind, now):
        return bool((<RetryPolicy>self.policy).allows(KINDS[kind], now))
