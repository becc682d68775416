"""The weights that a table was built with, and whether they still hold."""

from array import array

from lb.endpoints.set cimport EndpointSet


cdef class WeightWatch:
    """Weights of `endpoints` as of the last `refresh`; `members` is what a table is made of.

    An endpoint of weight 0 keeps the weight it had: 0 makes it unavailable, and a table knows what to do then.
    """

    def __init__(self, endpoints: EndpointSet) -> None:
        self.endpoints = endpoints
        self.known = array("i", bytes(4 * endpoints.size))
        self.watched = 0
        self.refresh()

    cpdef refresh(self):
        cdef int i
        for i in range(self.endpoints.size):
            self.known[i] = self.endpoints.weight(i) or self.known[i]

    cpdef list members(self):
        """The addresses with their weights."""
        return list(zip(self.endpoints.addresses, self.known, strict=True))

    cdef bint outdated(self) noexcept:
        """Whether the next endpoint in turn has changed: over one round of choices, every change is seen."""
        if self.endpoints.size == 0:
            return False
        self.watched = self.watched + 1 if self.watched + 1 < self.endpoints.size else 0
        return self.changed(self.watched)

    cdef bint stale(self) noexcept:
        """Whether any endpoint has changed."""
        cdef int i
        for i in range(self.endpoints.size):
            if self.changed(i):
                return True
        return False

    cdef bint changed(self, int i) noexcept:
        cdef int weight = self.endpoints.effective_weight(i)
        return weight not in (0, self.known[i])
