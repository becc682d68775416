"""What one selection among the endpoints of a pool goes by: one value, passed from the request down to the policy."""

cimport cython
from libc.stdint cimport uint64_t

from lb.endpoints.set cimport EndpointSet


cdef enum:
    EVERY_GROUP = -1


@cython.final
cdef class Choice:
    cdef readonly EndpointSet endpoints
    # Monotonic ns.
    cdef readonly uint64_t now
    # 64-bit hash of what the pool's `key` finds in the request; 0 = the pool has no key.
    cdef readonly uint64_t key
    # The endpoint that has just failed this request, -1 = none. It is chosen only where no other takes the request.
    cdef readonly int exclude
    # What the request costs, in units of the set's `one`.
    cdef readonly int cost
    # The group (lb.endpoints.groups) whose endpoints alone are considered; EVERY_GROUP = no matter.
    cdef readonly short group
    # Most requests in flight at an endpoint on probation.
    cdef int probes
    # The request's turn in the pool's queue has come: nobody is before it.
    cdef bint turn
    # Bits of the models that the request needs: an endpoint where one of them is not ready is no candidate.
    cdef uint64_t models
    # Bits of the models that requests in front of this one wait for: an endpoint where one of them is ready is theirs.
    cdef uint64_t blocked
    # Endpoints that are no candidates, a byte for each, and their number.
    cdef char *ruled_out
    cdef int ruled_out_count
    # Any of the four above restricts the candidates.
    cdef bint restricted

    # Results.
    # How many times the learned limit of an endpoint the policy's choice may take up (lb.balancing.policies.auto).
    cdef int stretch
    # The endpoint has failed of late, and is chosen since no other takes the request (lb.balancing.turns).
    cdef bint reluctant
    # What `take` added to the load of the endpoint; 0 where requests are not weighed.
    cdef readonly int charged

    # A request without a wish, other than `cost` and `exclude` that the caller may set. The value is used again for the
    # pool's next selection: a selection is over before the next one begins.
    cdef void begin(self, uint64_t now, uint64_t key) noexcept nogil
    cdef void need(self, uint64_t models) noexcept nogil
    cdef void block(self, uint64_t models) noexcept nogil
    cdef void enter(self, short group) noexcept nogil
    cdef void rule_out(self, int i) noexcept nogil
    cdef void readmit(self, int i) noexcept nogil
    cdef void readmit_all(self) noexcept nogil
    cdef void restrict(self) noexcept nogil

    # For compiled callers that hold an index (0 <= i < size).

    # The weight of the endpoint whether or not it has room; 0 = it takes no such request, however little it has to do.
    cdef int state_weight(self, int i) noexcept nogil
    # Whether the endpoint is kept for requests in front of this one.
    cdef bint is_blocked(self, int i) noexcept nogil
    # One more in flight there, unless that would be over the limit.
    cdef bint take(self, int i) noexcept
    cdef bint rules_out(self, int i) noexcept nogil

    # Policies ask this of every endpoint at every choice: it is here to be compiled into them.

    cdef inline int effective_weight(self, int i) noexcept nogil:
        """0 = not to be chosen."""
        return 0 if i == self.exclude else self.open_weight(i)

    cdef inline int open_weight(self, int i) noexcept nogil:
        """The same, for `exclude` too."""
        if self.restricted and self.rules_out(i):
            return 0
        return self.endpoints.weight_now(i, self.probes)

    cdef inline int willing_weight(self, int i) noexcept nogil:
        """As effective_weight, whether or not the endpoint has room."""
        if i == self.exclude or (self.restricted and self.rules_out(i)):
            return 0
        return self.endpoints.state_weight_with(i, self.probes)

    cpdef bint available(self, int i)
    cpdef int weight(self, int i)
