"""The hot-cold rule of Prequal (Wydrowski, Kleinberg, Rumble, Archer: "Load is not what you should balance: Introducing
Prequal", NSDI 2024, section 4): the fastest of the endpoints that do not have too much to do.

Prequal learns by probes how many requests a server has in flight and what latency it has at that number. Here the
number is known, exactly and over all workers, and latencies are seen in the answers: they are kept by how many requests
were at the endpoint when one came, in the shared segment, so that all workers learn together and reloads forget
nothing. Requests that other load balancers send to the same endpoints are seen by what they do to latencies, or, with
`probes`, by asking the endpoints (lb/upstream/load/prober sends the probes, lb/balancing/probes keeps the answers).
"""

from array import array

from libc.stdint cimport uint64_t
from lb.balancing.policy cimport Policy
from lb.balancing.probes cimport ProbePool
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet

from pydantic import Field

from lb.balancing.explained import Explained, Score
from lb.balancing.options import DecayOptions, ProbeOptions
from lb.config.schema.base import Number

# Endpoints that are compared, of many: Prequal itself compares 16.
cdef int WINDOW = 64
# Latencies by number in flight: 1, 2, 3, 4, then two ranges for each doubling (5 and 6, 7 and 8, 9 to 12, ...).
cdef int RANGES = 16
# What is known of one range in a word: the latency in ns in the upper bits, when it was last confirmed in the lower 24,
# in units of 2**27 ns (0.13 s); they come round after 26 days.
cdef int AGE_BITS = 24
cdef uint64_t AGE_MASK = 2**24 - 1
cdef int AGE_SHIFT = 27
cdef uint64_t MOST_NS = 2**40 - 1
# A new sample moves the estimate by a quarter of their distance, and by a tenth of the estimate at most: so it stays
# near the median of the recent ones, whatever a few slow ones took.
cdef double NEW = 0.25
cdef double MOST = 0.1
# More than any latency.
cdef double UNKNOWN_NS = 1e15
# The distribution of loads: exact below 16, then eight steps for each doubling. Counts are halved when there are this
# many, so that it is that of the last few dozen choices.
cdef int STEPS = 256
cdef int EXACT = 16
cdef int PER_DOUBLING = 8
cdef int OBSERVED = 1024


class PrequalOptions(DecayOptions):
    quantile: Number = Field(
        default=0.84,
        ge=0,
        le=1,
        description="Share of the loads seen of late that an endpoint's may reach before it is hot (Prequal's Q_RIF). "
        "Lower looks more at what is in flight, higher more at latencies; 0.6 to 0.9 is usual.",
    )
    full_utilization: Number | None = Field(
        default=None,
        gt=0,
        description="Reported utilization (ORCA, from 0 to 1 and above) from which an endpoint is hot, whatever is in "
        "flight there from here: for endpoints that others send requests to as well. A report counts for `decay`. "
        "Default: load reports are not read.",
    )
    probes: ProbeOptions | None = Field(
        default=None,
        description="Questions to endpoints about what they have in flight from others; an empty mapping "
        "(`probes: {}`) takes the defaults. Default: none are sent, and what is in flight from here decides.",
    )

    def problems(self, protocol):
        if self.probes is not None:
            for path, text in self.probes.problems(protocol):
                yield f"probes.{path}" if path else "probes", text


cdef int range_of(int in_flight) noexcept:
    """The range of latencies that so many at an endpoint fall into."""
    cdef int at, rest
    if in_flight <= 4:
        return max(in_flight - 1, 0)
    at = 4
    rest = in_flight - 1
    while rest >= 8:
        rest >>= 1
        at += 2
    return min(at + (1 if rest >= 6 else 0), RANGES - 1)


cdef int step_of(double load) noexcept:
    """The step of the distribution that a load falls into."""
    cdef int step
    if load < EXACT:
        return int(load)
    step = EXACT
    while load >= 2 * EXACT:
        load /= 2
        step += PER_DOUBLING
    return min(step + int((load - EXACT) * PER_DOUBLING / EXACT), STEPS - 1)


cdef class Prequal(Policy):
    """An endpoint is hot when its load exceeds the `quantile` of the loads seen of late, or it says that it is full,
    else cold; the load is requests in flight, or what they cost, over all workers, by weight. If any is cold, the cold
    one with the lowest latency at its load; if all are hot, the one with the least load. Of equal ones the next in
    turn.

    An endpoint of which nothing is known gets one request to show itself by. What is not confirmed fades, so that a
    slow endpoint is tried again. Over 64 endpoints it compares 64 at a time, in turn.

    With `probes` it is the same rule among those endpoints that have answered one of late, if these are two at least;
    their load is what is in flight from here and from others, and their latency what they say, if they do.
    """
    cdef int heaviest
    cdef double quantile
    cdef double full
    cdef double decay
    cdef int[::1] counts
    cdef int observed
    cdef readonly ProbePool pool      # empty without probes

    Options = PrequalOptions

    def __init__(self, endpoints: EndpointSet, options: PrequalOptions) -> None:
        Policy.__init__(self, endpoints, options)
        self.by_in_flight = True
        self.by_cost = True
        # Workers start at different endpoints: else the first of all of them would meet at one.
        self.rotation = endpoints.worker % endpoints.size if endpoints.size else 0
        self.quantile = options.quantile
        self.decay = float(options.decay)
        self.heaviest = 1
        self.full = options.full_utilization or 0.0
        self.reads_reports = self.full > 0
        self.counts = array("i", bytes(4 * STEPS))
        self.observed = 0
        self.probes = options.probes
        self.pool = ProbePool(endpoints, options.probes or ProbeOptions())

    cpdef int pick(self, Choice choice) except -2:
        cdef int entry
        if self.probes is not None:
            entry = self.choose_probed(choice)
            if entry >= 0:
                return self.use_probe(entry)
        return self.pick_counted(choice)

    cdef int pick_counted(self, Choice choice) noexcept:
        """By what is in flight from here."""
        cdef EndpointSet endpoints = self.endpoints
        cdef uint64_t now = choice.now
        cdef int limit = self.limit()
        cdef int cold = -1
        cdef int hot = -1
        cdef double lowest = 0.0
        cdef double least = 0.0
        cdef int heaviest = self.heaviest
        cdef int i = self.rotation
        cdef int seen, running, weight, step
        cdef double load, latency
        for seen in range(endpoints.size):
            if seen >= WINDOW and (cold >= 0 or hot >= 0):
                break
            if i == endpoints.size:
                i = 0
            weight = choice.effective_weight(i)
            if weight > 0:
                heaviest = max(heaviest, weight)
                running = endpoints.outstanding(i)
                load = running * endpoints.scale
                if weight != heaviest:
                    load = load * heaviest / weight
                step = step_of(load)
                self.count(step)
                if step <= limit and not (self.full > 0 and self.is_full(i, now)):
                    latency = self.latency(i, self.level(running + choice.cost), now)
                    if cold < 0 or latency < lowest:
                        cold, lowest = i, latency
                elif hot < 0 or load < least:
                    hot, least = i, load
            i += 1
        self.heaviest = heaviest
        best = cold if cold >= 0 else hot
        if best < 0:
            return -1
        self.rotation = best + 1
        return best

    # By probes.

    cpdef void probed(self, int index, uint64_t now, double rif, double latency_ns):
        cdef int weight = self.endpoints.state_weight(index)
        self.pool.add(index, rif, latency_ns, now)
        if weight > 0:
            self.heaviest = max(self.heaviest, weight)
            self.count(step_of(max(rif, 0.0) * self.heaviest / weight))

    cdef int choose_probed(self, Choice choice) noexcept:
        """The entry to choose by; -1: fewer than two are of use."""
        cdef uint64_t now = choice.now
        cdef ProbePool pool = self.pool
        cdef int i, entry, limit, cold, hot, usable, weight
        cdef double load, latency, lowest, least
        pool.expire(now)
        limit = self.limit()
        cold = -1
        hot = -1
        usable = 0
        lowest = 0.0
        least = 0.0
        for entry in range(pool.count):
            i = pool.index[entry]
            weight = choice.effective_weight(i)
            if weight <= 0:
                continue
            usable += 1
            self.heaviest = max(self.heaviest, weight)
            load = self.load_of(entry, weight)
            if step_of(load) <= limit and not (self.full > 0 and self.is_full(i, now)):
                latency = self.latency_of(entry, now)
                if cold < 0 or latency < lowest:
                    cold, lowest = entry, latency
            elif hot < 0 or load < least:
                hot, least = entry, load
        if usable < 2:
            return -1
        return cold if cold >= 0 else hot

    cdef double load_of(self, int entry, int weight) noexcept:
        """Requests in flight by weight, from here and from others."""
        cdef ProbePool pool = self.pool
        return (self.endpoints.running(pool.index[entry]) + pool.others[entry]) * self.heaviest / weight

    cdef double latency_of(self, int entry, uint64_t now) noexcept:
        """What the endpoint says; else what was seen from here, with so many in flight."""
        cdef ProbePool pool = self.pool
        cdef int index
        if pool.latency[entry] > 0:
            return pool.latency[entry]
        index = pool.index[entry]
        return self.latency(index, self.endpoints.running(index) + int(pool.others[entry]) + 1, now)

    cdef int use_probe(self, int entry) noexcept:
        """The endpoint of the entry, which was chosen by; and what that does to the entries."""
        cdef ProbePool pool = self.pool
        cdef int index = pool.index[entry]
        pool.use(entry)
        pool.due += pool.remove
        while pool.removal_due():
            pool.take_out(pool.oldest() if pool.by_age else self.worst())
            pool.by_age = not pool.by_age
        return index

    cdef int worst(self) noexcept:
        """The entry with the highest load among the hot ones; where none is hot, with the highest latency."""
        cdef ProbePool pool = self.pool
        cdef int limit = self.limit()
        cdef int found = 0
        cdef bint hot = False
        cdef double highest = -1.0
        cdef int entry
        cdef bint is_hot
        cdef double load, value
        for entry in range(pool.count):
            load = self.load_of(entry, max(self.endpoints.state_weight(pool.index[entry]), 1))
            is_hot = step_of(load) > limit
            value = load if is_hot else pool.latency[entry]
            if (is_hot and not hot) or (is_hot == hot and value > highest):
                found, hot, highest = entry, is_hot, value
        return found

    def explain_probed(self, choice: Choice, chosen: int) -> Explained:
        pool, now = self.pool, choice.now
        limit = self.limit()
        scores = []
        for entry in range(pool.count):
            i = pool.index[entry]
            weight = choice.weight(i)
            if weight <= 0:
                continue
            full = self.full > 0 and self.is_full(i, now)
            cold = not full and step_of(self.load_of(entry, weight)) <= limit
            note = f"{'cold' if cold else 'full' if full else 'hot'}, {self.endpoints.running(i)} in flight from here, "
            note += f"{pool.others[entry]:.3g} from others {(now - pool.at[entry]) / 1e6:.3g} ms ago, "
            note += f"{self.latency_of(entry, now) / 1e6:.3g} ms expected"
            scores.append(Score(i, float(entry != chosen), note))
        return Explained(
            "of those that have answered a probe of late, the cold one with the least latency; if all are hot, the one "
            "with the least load",
            scores,
        )

    def explain(self, choice: Choice) -> Explained:
        if self.probes is not None:
            entry = self.choose_probed(choice)
            if entry >= 0:
                return self.explain_probed(choice, entry)
        endpoints, now = self.endpoints, choice.now
        before = (self.rotation, self.heaviest, self.observed)
        counts = list(self.counts)
        limit = self.limit()
        index = self.pick_counted(choice)
        scores = []
        for i in range(endpoints.size):
            weight = choice.weight(i)
            if weight == 0:
                continue
            running = endpoints.outstanding(i)
            load = running * endpoints.scale
            full = self.full > 0 and self.is_full(i, now)
            cold = not full and step_of(load * self.heaviest / weight) <= limit
            note = f"{'cold' if cold else 'full' if full else 'hot'}, a load of {load:g}, "
            if endpoints.latency_updated(i) != 0:
                note += f"{self.latency(i, self.level(running + choice.cost), now) / 1e6:.3g} ms expected"
            else:
                note += "no latency known"
            scores.append(Score(i, float(i != index), note))
        self.rotation, self.heaviest, self.observed = before
        for step, count in enumerate(counts):
            self.counts[step] = count
        return Explained("the cold one with the least latency; if all are hot, the one with the least load", scores)

    cdef bint is_full(self, int index, uint64_t now) noexcept:
        """By its own report, which counts by what others send it, too."""
        cdef EndpointSet endpoints = self.endpoints
        if endpoints.reported_utilization(index) < self.full:
            return False
        return float(now) < float(endpoints.reported_at(index)) + self.decay

    cpdef void observe(self, int index, uint64_t now, uint64_t latency_ns, bint ok):
        self.learn(index, now, latency_ns, ok, 0, self.endpoints.one)

    cpdef void learn(self, int index, uint64_t now, uint64_t latency_ns, bint ok, int in_flight, int cost):
        """`in_flight` 0: the number that is there now stands in."""
        cdef EndpointSet endpoints = self.endpoints
        cdef int at = range_of(in_flight if in_flight > 0 else self.level(endpoints.outstanding(index)))
        cdef uint64_t word = endpoints.load_word(index, at)
        cdef double sample = float(latency_ns)
        cdef uint64_t latency
        cdef double known
        if not ok:
            # An endpoint that refuses at once must not look fast.
            sample = max(sample, self.known(index, at))
            if self.known(index, at) == 0:
                sample = max(sample, self.highest(at))
        if word != 0:
            known = float(word >> AGE_BITS)
            sample = known + max(min((sample - known) * NEW, known * MOST), -known * MOST)
        latency = int(min(max(sample, 1.0), float(MOST_NS)))
        endpoints.set_load_word(index, at, latency << AGE_BITS | (now >> AGE_SHIFT) & AGE_MASK)
        # That anything is known, in a word of its own.
        endpoints.set_latency(index, float(latency), now)

    cdef double latency(self, int index, int in_flight, uint64_t now) noexcept:
        """The latency expected of a request with which `in_flight` are at the endpoint, ns: the latency at that number
        in flight, or the nearest of which one is known; less the longer ago that was."""
        cdef int at = range_of(in_flight)
        cdef uint64_t word = self.endpoints.load_word(index, at)
        cdef uint64_t age
        cdef double latency, kept
        if word == 0:
            at = self.nearest(index, at) if self.endpoints.latency_updated(index) != 0 else -1
            if at < 0:
                return (in_flight - 1) * UNKNOWN_NS
            word = self.endpoints.load_word(index, at)
        age = ((now >> AGE_SHIFT) - word) & AGE_MASK
        latency = float(word >> AGE_BITS)
        # Another worker may have been later than this event.
        if age == 0 or age > AGE_MASK // 2:
            return latency
        kept = self.decay / (self.decay + float(age << AGE_SHIFT))
        return latency * kept * kept

    cdef int level(self, int load) noexcept:
        """A load, in units of the set's `one`, in whole average requests: what is begun counts."""
        return (load + self.endpoints.one - 1) >> self.endpoints.shift

    cdef int nearest(self, int index, int at) noexcept:
        """The range nearest to `at` in which a latency is known, the lower of two; -1: there is none."""
        cdef int distance
        for distance in range(RANGES):
            if at >= distance and self.endpoints.load_word(index, at - distance) != 0:
                return at - distance
            if at + distance < RANGES and self.endpoints.load_word(index, at + distance) != 0:
                return at + distance
        return -1

    cdef double known(self, int index, int at) noexcept:
        """The latency in the range nearest to `at`, however old; 0: nothing is known."""
        cdef int found = self.nearest(index, at)
        return float(self.endpoints.load_word(index, found) >> AGE_BITS) if found >= 0 else 0.0

    cdef double highest(self, int at) noexcept:
        cdef double highest = 0.0
        cdef int i
        for i in range(self.endpoints.size):
            highest = max(highest, self.known(i, at))
        return highest

    # The distribution of loads: those of endpoints that were compared, or that have answered a probe.

    cdef int limit(self) noexcept:
        """The step that the quantile falls into; loads of later ones are hot."""
        cdef double rest = self.quantile * self.observed
        cdef int step
        for step in range(STEPS):
            rest -= self.counts[step]
            if rest <= 0:
                return step
        return STEPS - 1

    cdef void count(self, int step) noexcept:
        cdef int i
        self.counts[step] += 1
        self.observed += 1
        if self.observed >= OBSERVED:
            self.observed = 0
            for i in range(STEPS):
                self.counts[i] >>= 1
                self.observed += self.counts[i]
