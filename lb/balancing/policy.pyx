"""What a balancing policy is: a choice among the endpoints of a pool, and nothing else.

State that outlives a choice (health, weight, in-flight) is the endpoints'; a policy only keeps what its own algorithm
needs and may be rebuilt at any reload. One object serves one pool in one worker and is called by one thread.
"""

from libc.stdint cimport uint64_t
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet

from lb.balancing.explained import Explained
from lb.balancing.options import PolicyOptions


cdef class Policy:
    """Base of all policies, also of those written in plain Python."""

    Options = PolicyOptions           # type: type[PolicyOptions]
    """The options of this policy: a subclass of PolicyOptions, closed like it."""
    needs_key = False                 # type: bool
    """Whether the policy chooses by the request's key, so that the pool's `policy` needs a `key`."""

    def __init__(self, endpoints: EndpointSet, options: PolicyOptions) -> None:
        if not isinstance(endpoints, EndpointSet):
            raise TypeError(f"endpoints must be an EndpointSet, not {type(endpoints).__name__}")
        if not isinstance(options, type(self).Options):
            raise TypeError(f"options must be {type(self).Options.__name__}, not {type(options).__name__}")
        self.endpoints = endpoints
        # Whether it has an `observe` to be told by.
        # By its dictionary: `Policy.observe` is a new object at each look when compiled.
        self.learns = type(self).observe is not vars(Policy)["observe"]
        # Whether `learn` uses the number of requests in flight at a request's start.
        self.by_in_flight = False
        # Whether, in a pool that weighs its requests, `learn` takes a latency as it was, with the `cost` of the
        # request that had it. Else it gets the one that the request would have had if all there had cost the same.
        self.by_cost = False
        # Whether an endpoint's latency is to it the time from one answer to the next while there is work: its service
        # time.
        self.by_service = False
        # Whether it keeps when an endpoint's last answer came (the set's `progress`), and knows its `usual_gap`.
        self.keeps_progress = False
        # Whether it finds the number of requests that each endpoint is good for (the set's `learned`).
        self.limits = False
        # Whether it reads the endpoints' load reports, so that answers have to be looked through for them.
        self.reads_reports = False
        # How its endpoints are asked about their load (lb.balancing.options.ProbeOptions); None: they are not.
        self.probes = None
        # Whose turn it is, where a policy has turns. Each group of endpoints has its own (Pool.choose_in): else, of
        # groups that are asked in turn, always the same endpoints would be next.
        self.rotation = 0

    cpdef int pick(self, Choice choice) except -2:
        """The index of the endpoint that gets the request, one of those that are `choice.available`; -1 when there is
        none. The caller counts the request in flight; a choice must not.

        `choice` says what the selection goes by, and is valid until `pick` returns: `choice.now` is monotonic ns,
        `choice.key` a 64-bit hash of what the pool's `key` finds in the request (0 in a pool without one), and
        `choice.cost * endpoints.scale` the load that the request adds.
        """
        raise NotImplementedError(f"{type(self).__name__} has no pick")

    cpdef void observe(self, int index, uint64_t now, uint64_t latency_ns, bint ok):
        """A request to endpoint `index` ended at `now` after `latency_ns`; `ok` says that the endpoint did its
        part."""

    cpdef void learn(self, int index, uint64_t now, uint64_t latency_ns, bint ok, int in_flight_at_start, int cost):
        """The data path calls this. A policy that needs no more than `observe` leaves it as it is.
        `in_flight_at_start`: requests at the endpoint when this one came, itself included; in a pool that weighs its
        requests, how many average ones they were worth; 0: unknown. Only told where `by_in_flight`. `cost` is what the
        request was charged, in units of the set's `one`."""
        self.observe(index, now, latency_ns, ok)

    cpdef void abandoned(self, int index, uint64_t now, uint64_t waited_ns):
        """A request left endpoint `index` at `now` without an answer, after `waited_ns`: its client had gone, or its
        time was over. It is still counted in flight. Only told where `limits`; else `learn` takes it for a latency."""

    cdef double usual_gap(self, int index) noexcept:
        """The time in ns from one answer of endpoint `index` to the next while there is work; 0: it is not known. Only
        asked where it `keeps_progress`."""
        return self.endpoints.latency_ns(index)

    cpdef void probed(self, int index, uint64_t now, double rif, double latency_ns):
        """Endpoint `index` has answered a probe: it has `rif` requests in flight, whoever sent them, and they take
        `latency_ns`; 0: it did not say. Only told where there are `probes`."""

    def explain(self, choice: Choice) -> Explained:
        """How `pick` with this choice would come about; for people, and for few requests. Must change nothing but
        what the next choices would find out anyway, such as new weights. A policy that does not have it is shown
        without scores."""
        return Explained("what the policy itself says, which does not explain itself", [])
