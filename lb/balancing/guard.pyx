"""What stands between a policy from elsewhere and the data path, which takes an index at its word."""

from libc.stdint cimport uint64_t
from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet

from lb.balancing.explained import Explained
from lb.balancing.options import PolicyOptions
from lb.errors import TidegateError


cdef class Guard(Policy):
    """Passes on to the plug-in policy `inner`, named `name`, and lets no index through that is not one of the pool's,
    or whose endpoint gets no requests: it is down, or an operator has taken it out.

    Raises TidegateError for such an index, and whatever the plug-in raises.
    """
    cdef readonly object inner
    cdef str name

    def __init__(self, endpoints: EndpointSet, inner: Policy, name: str) -> None:
        Policy.__init__(self, endpoints, PolicyOptions())
        self.inner = inner
        self.learns = inner.learns
        self.rotation = inner.rotation
        self.name = name

    cpdef int pick(self, Choice choice) except -2:
        index = self.ask(choice)
        if index >= 0 and choice.state_weight(index) == 0:
            index = self.ask(choice)  # it may have changed since the plug-in looked
            if index >= 0 and choice.state_weight(index) == 0:
                address = self.endpoints.addresses[index]
                raise TidegateError(f"policy {self.name!r} chose {address}, which is not available")
        return index

    cdef int ask(self, Choice choice) except -2:
        self.inner.rotation = self.rotation
        index = self.inner.pick(choice)
        self.rotation = self.inner.rotation
        if type(index) is not int or not -1 <= index < self.endpoints.size:
            raise TidegateError(
                f"policy {self.name!r} chose {index!r} of {self.endpoints.size} endpoints, not an index or -1"
            )
        return index

    def explain(self, choice: Choice) -> Explained:
        self.inner.rotation = self.rotation
        return self.inner.explain(choice)

    cpdef void observe(self, int index, uint64_t now, uint64_t latency_ns, bint ok):
        self.inner.observe(index, now, latency_ns, ok)
