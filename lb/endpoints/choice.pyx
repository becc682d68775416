"""What one selection among the endpoints of a pool goes by: see choice.pxd for its fields.

The endpoints' state (health, weight, in flight) is in the shared segment and the same for every request. What is
special to one request stands here, so that a selection depends on its arguments alone.
"""

cimport cython
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from lb.shared.records cimport lacks_model, unfit
from lb.endpoints.set cimport EndpointSet


@cython.final
cdef class Choice:
    """A selection among `endpoints` at `now` (monotonic ns), for a request with `key` that `exclude` has just failed
    (-1: none has).

    `cost` is the request's, 1.0 for an average one; `models` are bits of the models that it needs, `blocked` those of
    models that others wait for; `group` is the only group considered, -1 for all. Raises ValueError for a group of a
    set that is not divided, and for a cost that no request can have.
    """

    def __init__(
        self, EndpointSet endpoints not None, uint64_t now=0, uint64_t key=0, int exclude=-1, *, double cost=1.0,
        uint64_t models=0, uint64_t blocked=0, short group=EVERY_GROUP
    ):
        if self.endpoints is not None:
            raise RuntimeError("a Choice is initialised once")
        if group != EVERY_GROUP and endpoints.groups is NULL:
            raise ValueError("the set is not divided into groups")
        self.endpoints = endpoints
        self.ruled_out = <char *> calloc(endpoints.size + 1, 1)
        if self.ruled_out is NULL:
            raise MemoryError
        self.group = EVERY_GROUP
        self.begin(now, key)
        self.exclude = exclude
        self.cost = endpoints.units(cost)
        self.group = group
        self.models = models
        self.blocked = blocked
        self.restrict()

    def __dealloc__(self):
        free(self.ruled_out)

    def __repr__(self):
        return f"<Choice now={self.now} key={self.key} exclude={self.exclude} of {self.endpoints!r}>"

    cpdef bint available(self, int i):
        """Whether the endpoint may be chosen: it takes requests, has room, and is not `exclude`."""
        self.endpoints.check(i)
        return self.effective_weight(i) > 0

    cpdef int weight(self, int i):
        """The endpoint's weight in this choice, 0 where it is not `available`; of use to compare endpoints only."""
        self.endpoints.check(i)
        return self.effective_weight(i)

    cdef void begin(self, uint64_t now, uint64_t key) noexcept nogil:
        self.now = now
        self.key = key
        self.exclude = -1
        self.cost = self.endpoints.one
        self.probes = self.endpoints.probes
        self.turn = False
        self.reluctant = False
        self.stretch = 1
        if self.restricted:
            self.models = self.blocked = 0
            self.group = EVERY_GROUP
            self.readmit_all()

    cdef void need(self, uint64_t models) noexcept nogil:
        self.models = models
        self.restrict()

    cdef void block(self, uint64_t models) noexcept nogil:
        self.blocked = models
        self.restrict()

    cdef void enter(self, short group) noexcept nogil:
        self.group = group
        self.restrict()

    cdef void rule_out(self, int i) noexcept nogil:
        if not self.ruled_out[i]:
            self.ruled_out[i] = 1
            self.ruled_out_count += 1
            self.restricted = True

    cdef void readmit(self, int i) noexcept nogil:
        if self.ruled_out[i]:
            self.ruled_out[i] = 0
            self.ruled_out_count -= 1
            self.restrict()

    cdef void readmit_all(self) noexcept nogil:
        if self.ruled_out_count:
            memset(self.ruled_out, 0, <size_t> self.endpoints.size)
            self.ruled_out_count = 0
        self.restrict()

    cdef void restrict(self) noexcept nogil:
        self.restricted = (self.models | self.blocked) != 0 or self.group != EVERY_GROUP or self.ruled_out_count > 0

    cdef bint rules_out(self, int i) noexcept nogil:
        if self.group != EVERY_GROUP and self.endpoints.groups[i] != self.group:
            return True
        return self.ruled_out[i] or unfit(self.endpoints.records[i], self.models, self.blocked)

    cdef int state_weight(self, int i) noexcept nogil:
        if self.models and lacks_model(self.endpoints.records[i], self.models):
            return 0
        if self.group != EVERY_GROUP and self.endpoints.groups[i] != self.group:
            return 0
        return self.endpoints.state_weight_with(i, self.probes)

    cdef bint is_blocked(self, int i) noexcept nogil:
        return (self.endpoints.unready(i) & self.blocked) != self.blocked

    cdef bint take(self, int i) noexcept:
        cdef int charged = self.endpoints.take(i, self.cost, self.probes, self.stretch)
        if charged < 0:
            return False
        self.charged = charged
        return True
