"""The endpoints of a pool as one worker sees them, over their records in the shared segment."""

cimport cython
from libc.stdint cimport int32_t, uint32_t, uint64_t

from lb.shared.atomics cimport tg_load32_relaxed, tg_load64_relaxed, tg_load_double_relaxed, tg_load_i32_relaxed
from lb.shared.records cimport is_steered, weight_of
from lb.shared.segment cimport TG_CURVE_LIMIT, Segment, tg_endpoint


cdef inline int sum_of_columns(const void *first, uint32_t columns, size_t stride) noexcept nogil:
    # As Segment.inflight_total, in a loop that the policies can afford for every endpoint at every choice.
    cdef const char *word = <const char *> first
    cdef int total = 0
    for _ in range(columns):
        total += tg_load_i32_relaxed(<const int32_t *> word)
        word += stride
    return total


@cython.final
cdef class EndpointSet:
    cdef Segment segment
    cdef readonly int size
    cdef readonly int worker          # whose in-flight column `acquire` and `release` write
    cdef tg_endpoint **records
    cdef readonly tuple addresses     # type: tuple[str, ...]
    cdef uint32_t columns             # of in-flight counts: the workers', and that of those who died
    cdef size_t stride                # bytes from one worker's in-flight word of an endpoint to the next worker's
    cdef int32_t **inflight_words     # of each endpoint, the word of worker 0
    cdef int32_t **own                # of each endpoint, this worker's word
    cdef int32_t *limits              # of each endpoint, the most requests in flight as configured; 0 = no limit
    cdef readonly bint limited        # any endpoint has one, or may have one that was learned
    cdef readonly bint learned        # limits are learned (lb.balancing.policies.auto)
    # What learned limits go by besides. Monotonic ns: when a request last found no room.
    cdef uint64_t pressed_ns
    cdef double allowed_ns            # the time that requests have, an average of those with a deadline; 0 = none has
    cdef int waiting                  # requests that wait behind the one whose turn it is
    cdef readonly int unit            # what an effective weight of 1 is: 1, or TG_SHARE_WHOLE where shares are given
    cdef bint shaped                  # ejection state, shares and panic have a say
    cdef int probes                   # most requests in flight at an endpoint on probation
    cdef short *groups                # of each endpoint; NULL = there is one (lb.endpoints.groups)
    # Load: requests in flight, or what they cost (`weigh`). As an integer it is in units of `one`.
    cdef int32_t **load_words         # of each endpoint, the word of worker 0
    cdef int32_t **own_cost           # of each endpoint, this worker's word of what requests cost; NULL = counted
    cdef readonly int one             # what an average request is: 1 in flight, or TG_COST_ONE
    cdef readonly int shift           # of which it is a power of two
    cdef readonly double scale        # 1 / one

    cdef int check(self, int i) except -1
    cdef uint64_t unready(self, int i) noexcept nogil        # bits of the models that are not ready there

    # For Python and for whoever cannot vouch for the index: IndexError when it is out of range.
    cpdef bint available(self, int i)
    cpdef int weight(self, int i)
    cpdef int inflight(self, int i)
    cpdef double load(self, int i)
    cpdef int limit(self, int i)
    cpdef double latency(self, int i)
    cpdef uint64_t latency_at(self, int i)
    cpdef double failing(self, int i, uint64_t now)

    # For compiled callers that hold an index of this set (0 <= i < size).
    # One more in flight there, which costs `cost` (in units of `one`): what of that was added to the load, the column
    # being bounded; 0 where requests are not weighed. `release` is told the same.
    cdef int acquire(self, int i, int cost) noexcept
    # The same unless that would be over the limit, `probes` of an endpoint on probation: then -1. A learned limit
    # counts `stretch` times.
    cdef int take(self, int i, int cost, int probes, int stretch) noexcept
    cdef void release(self, int i, int charged) noexcept
    cdef int charge(self, int i, int cost) noexcept
    cdef bint enabled(self, int i) noexcept nogil      # neither drained nor in maintenance
    cdef int state_weight(self, int i) noexcept nogil  # 0: takes none, however little it has to do
    # Whether it goes on serving those that it has: up and not ejected, drained or not, with these models ready.
    cdef bint keeps(self, int i, uint64_t models) noexcept nogil
    # A cost in units of `one`, 1.0 for an average request.
    cpdef int units(self, double cost) except -1
    cpdef weigh(self)

    # Of a shaped set only: weight_now but for the limit, and the limit with that of a probation. `probes`: the most
    # requests in flight at an endpoint on probation.
    cdef int shaped_weight(self, int i, int probes) noexcept nogil
    cdef int32_t shaped_limit(self, int i, int32_t limit, int probes) noexcept nogil
    cpdef shape(self, bint whole, int probes)

    # The records, word by word.
    # Of those that wait for this very endpoint: the worker that gets its next slot until `until`; -1 = anybody.
    cdef void claim(self, int i, uint64_t until) noexcept nogil
    cdef void unclaim(self, int i) noexcept nogil
    cdef int claimant(self, int i, uint64_t now) noexcept nogil
    cdef void set_progress(self, int i, uint64_t now) noexcept nogil
    cdef void set_latency(self, int i, double latency_ns, uint64_t now) noexcept nogil
    cdef void set_latency_samples(self, int i, int samples) noexcept nogil
    # The last load report: written by whichever worker got it.
    cdef double reported_utilization(self, int i) noexcept nogil
    cdef double reported_qps(self, int i) noexcept nogil
    cdef double reported_eps(self, int i) noexcept nogil
    cdef uint64_t reported_at(self, int i) noexcept nogil    # 0: it never reported
    cdef uint64_t reporting_since(self, int i) noexcept nogil     # the later of that and when it came up
    cdef void set_report(self, int i, double utilization, double qps, double eps, uint64_t now) noexcept nogil
    cdef void forget_report(self, int i) noexcept nogil
    cdef void set_load_word(self, int i, int at, uint64_t word) noexcept nogil

    # What policies ask of every endpoint at every choice is here, to be compiled into them.

    cdef inline int effective_weight(self, int i) noexcept nogil:
        """0: takes no new requests. Of a certain request see Choice.effective_weight."""
        return self.weight_now(i, self.probes)

    cdef inline int weight_now(self, int i, int probes) noexcept nogil:
        """The same with `probes` as the most requests in flight at an endpoint on probation."""
        cdef int32_t limit = self.limit_now(i)
        if limit and self.running(i) >= limit:
            return 0
        return self.state_weight_with(i, probes)

    cdef inline int state_weight_with(self, int i, int probes) noexcept nogil:
        """The weight of an endpoint whether or not it has room."""
        # Where nothing but health and weight has a say, as for most, they are looked at here.
        if self.shaped and (self.unit != 1 or is_steered(self.records[i])):
            return self.shaped_weight(i, probes)
        return weight_of(self.records[i])

    cdef inline int32_t limit_now(self, int i) noexcept nogil:
        """The most requests in flight, as configured or learned, whichever is less; 0 = no limit."""
        return self.limit_of(i, 1)

    cdef inline int32_t limit_of(self, int i, int stretch) noexcept nogil:
        """The same with a learned limit that counts `stretch` times."""
        cdef int32_t limit = self.limits[i], learned
        if self.learned:
            learned = <int32_t> (tg_load64_relaxed(&self.records[i].curve_limit) & TG_CURVE_LIMIT) * stretch
            if learned and (limit == 0 or learned < limit):
                return learned
        return limit

    cdef inline void allow(self, uint64_t left_ns) noexcept nogil:
        """A request comes that has so much time."""
        if self.allowed_ns == 0:
            self.allowed_ns = <double> left_ns
        else:
            self.allowed_ns += (<double> left_ns - self.allowed_ns) / 64

    cdef inline int running(self, int i) noexcept nogil:
        """In flight, exactly."""
        return sum_of_columns(self.inflight_words[i], self.columns, self.stride)

    cdef inline int outstanding(self, int i) noexcept nogil:
        """The load, in units of `one`. Over either kind of column: the policies pay nothing for the choice."""
        return sum_of_columns(self.load_words[i], self.columns, self.stride)

    # Every worker writes these two words, and nothing holds them together: a sample that comes while another is being
    # added may be lost, and one's average be seen with the other's time. The error is one sample's, and soon gone.

    cdef inline double latency_ns(self, int i) noexcept nogil:
        """0: nothing is known."""
        return tg_load_double_relaxed(&self.records[i].latency_ewma_ns)

    cdef inline uint64_t latency_updated(self, int i) noexcept nogil:
        return tg_load64_relaxed(&self.records[i].latency_updated_ns)

    cdef inline int latency_samples(self, int i) noexcept nogil:
        """How many samples the average is of, up to a number that the policy chooses."""
        return <int> tg_load32_relaxed(&self.records[i].latency_samples)

    cdef inline uint64_t progress(self, int i) noexcept nogil:
        """When it last answered, or got something to do."""
        return tg_load64_relaxed(&self.records[i].progress_ns)

    cdef inline uint64_t load_word(self, int i, int at) noexcept nogil:
        """Of TG_LOAD_RANGES words, the one at `at`; what is in them is the policy's affair. 0: nothing is known."""
        return tg_load64_relaxed(&self.records[i].load_words[at])
