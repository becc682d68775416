"""The hot-cold rule of Prequal (Wydrowski, Kleinberg, Rumble, Archer: "Load is not what you should balance: Introducing
Prequal", NSDI 2024, section 4): the fastest of the endpoints that do not have too much to do.

Prequal learns by probes how many requests a server has in flight and what latency it has at that number. Here the
number is known, exactly and over all workers, and latencies are seen in the answers: they are kept by how many requests
were at the endpoint when one came, in the shared segment, so that all workers learn together and reloads forget
nothing. Requests that other load balancers send to the same endpoints are seen by what they do to latencies, or, with
`probes`, by asking the endpoints (lb/upstream/load/prober sends the probes, lb/balancing/probes keeps the answers).
"""

from __future__ import annotations

from array import array

from lb.balancing.explained import Explained, Score
from lb.balancing.options import PrequalOptions, ProbeOptions
from lb.balancing.policy import Policy
from lb.balancing.probes import ProbePool
from lb.endpoints.choice import Choice
from lb.endpoints.set import EndpointSet

# Endpoints that are compared, of many: Prequal itself compares 16.
_WINDOW = 64
# Latencies by number in flight: 1, 2, 3, 4, then two ranges for each doubling (5 and 6, 7 and 8, 9 to 12, ...).
_RANGES = 16
# What is known of one range in a word: the latency in ns in the upper bits, when it was last confirmed in the lower 24,
# in units of 2**27 ns (0.13 s); they come round after 26 days.
_AGE_BITS = 24
_AGE_MASK = 2**24 - 1
_AGE_SHIFT = 27
_MOST_NS = 2**40 - 1
# A new sample moves the estimate by a quarter of their distance, and by a tenth of the estimate at most: so it stays
# near the median of the recent ones, whatever a few slow ones took.
_NEW = 0.25
_MOST = 0.1
# More than any latency.
_UNKNOWN_NS = 1e15
# The distribution of loads: exact below 16, then eight steps for each doubling. Counts are halved when there are this
# many, so that it is that of the last few dozen choices.
_STEPS = 256
_EXACT = 16
_PER_DOUBLING = 8
_OBSERVED = 1024


def _range_of(in_flight: int) -> int:
    """The range of latencies that so many at an endpoint fall into."""
    if in_flight <= 4:
        return max(in_flight - 1, 0)
    at = 4
    rest = in_flight - 1
    while rest >= 8:
        rest >>= 1
        at += 2
    return min(at + (1 if rest >= 6 else 0), _RANGES - 1)


def _step_of(load: float) -> int:
    """The step of the distribution that a load falls into."""
    if load < _EXACT:
        return int(load)
    step = _EXACT
    while load >= 2 * _EXACT:
        load /= 2
        step += _PER_DOUBLING
    return min(step + int((load - _EXACT) * _PER_DOUBLING / _EXACT), _STEPS - 1)


class Prequal(Policy):
    """An endpoint is hot when its load exceeds the `quantile` of the loads seen of late, or it says that it is full,
    else cold; the load is requests in flight, or what they cost, over all workers, by weight. If any is cold, the cold
    one with the lowest latency at its load; if all are hot, the one with the least load. Of equal ones the next in
    turn.

    An endpoint of which nothing is known gets one request to show itself by. What is not confirmed fades, so that a
    slow endpoint is tried again. Over 64 endpoints it compares 64 at a time, in turn.

    With `probes` it is the same rule among those endpoints that have answered one of late, if these are two at least;
    their load is what is in flight from here and from others, and their latency what they say, if they do.
    """

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
        self.counts = array("i", bytes(4 * _STEPS))
        self.observed = 0
        self.probes = options.probes
        self.pool = ProbePool(endpoints, options.probes or ProbeOptions())

    def pick(self, choice: Choice) -> int:
        if self.probes is not None:
            entry = self.choose_probed(choice)
            if entry >= 0:
                return self.use_probe(entry)
        return self.pick_counted(choice)

    def pick_counted(self, choice: Choice) -> int:
        """By what is in flight from here."""
        endpoints = self.endpoints
        now = choice.now
        limit = self.limit()
        cold = -1
        hot = -1
        lowest = 0.0
        least = 0.0
        heaviest = self.heaviest
        i = self.rotation
        for seen in range(endpoints.size):
            if seen >= _WINDOW and (cold >= 0 or hot >= 0):
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
                step = _step_of(load)
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

    def probed(self, index: int, now: int, rif: float, latency_ns: float) -> None:
        weight = self.endpoints.state_weight(index)
        self.pool.add(index, rif, latency_ns, now)
        if weight > 0:
            self.heaviest = max(self.heaviest, weight)
            self.count(_step_of(max(rif, 0.0) * self.heaviest / weight))

    def choose_probed(self, choice: Choice) -> int:
        """The entry to choose by; -1: fewer than two are of use."""
        now = choice.now
        pool = self.pool
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
            if _step_of(load) <= limit and not (self.full > 0 and self.is_full(i, now)):
                latency = self.latency_of(entry, now)
                if cold < 0 or latency < lowest:
                    cold, lowest = entry, latency
            elif hot < 0 or load < least:
                hot, least = entry, load
        if usable < 2:
            return -1
        return cold if cold >= 0 else hot

    def load_of(self, entry: int, weight: int) -> float:
        """Requests in flight by weight, from here and from others."""
        pool = self.pool
        return (self.endpoints.running(pool.index[entry]) + pool.others[entry]) * self.heaviest / weight

    def latency_of(self, entry: int, now: int) -> float:
        """What the endpoint says; else what was seen from here, with so many in flight."""
        pool = self.pool
        if pool.latency[entry] > 0:
            return pool.latency[entry]
        index = pool.index[entry]
        return self.latency(index, self.endpoints.running(index) + int(pool.others[entry]) + 1, now)

    def use_probe(self, entry: int) -> int:
        """The endpoint of the entry, which was chosen by; and what that does to the entries."""
        pool = self.pool
        index = pool.index[entry]
        pool.use(entry)
        pool.due += pool.remove
        while pool.removal_due():
            pool.take_out(pool.oldest() if pool.by_age else self.worst())
            pool.by_age = not pool.by_age
        return index

    def worst(self) -> int:
        """The entry with the highest load among the hot ones; where none is hot, with the highest latency."""
        pool = self.pool
        limit = self.limit()
        found = 0
        hot = False
        highest = -1.0
        for entry in range(pool.count):
            load = self.load_of(entry, max(self.endpoints.state_weight(pool.index[entry]), 1))
            is_hot = _step_of(load) > limit
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
            cold = not full and _step_of(self.load_of(entry, weight)) <= limit
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
            cold = not full and _step_of(load * self.heaviest / weight) <= limit
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

    def is_full(self, index: int, now: int) -> bool:
        """By its own report, which counts by what others send it, too."""
        endpoints = self.endpoints
        if endpoints.reported_utilization(index) < self.full:
            return False
        return float(now) < float(endpoints.reported_at(index)) + self.decay

    def observe(self, index: int, now: int, latency_ns: int, ok: bool) -> None:
        self.learn(index, now, latency_ns, ok, 0, self.endpoints.one)

    def learn(self, index: int, now: int, latency_ns: int, ok: bool, in_flight: int, cost: int) -> None:
        """`in_flight` 0: the number that is there now stands in."""
        endpoints = self.endpoints
        at = _range_of(in_flight if in_flight > 0 else self.level(endpoints.outstanding(index)))
        word = endpoints.load_word(index, at)
        sample = float(latency_ns)
        if not ok:
            # An endpoint that refuses at once must not look fast.
            sample = max(sample, self.known(index, at))
            if self.known(index, at) == 0:
                sample = max(sample, self.highest(at))
        if word != 0:
            known = float(word >> _AGE_BITS)
            sample = known + max(min((sample - known) * _NEW, known * _MOST), -known * _MOST)
        latency = int(min(max(sample, 1.0), float(_MOST_NS)))
        endpoints.set_load_word(index, at, latency << _AGE_BITS | (now >> _AGE_SHIFT) & _AGE_MASK)
        # That anything is known, in a word of its own.
        endpoints.set_latency(index, float(latency), now)

    def latency(self, index: int, in_flight: int, now: int) -> float:
        """The latency expected of a request with which `in_flight` are at the endpoint, ns: the latency at that number
        in flight, or the nearest of which one is known; less the longer ago that was."""
        at = _range_of(in_flight)
        word = self.endpoints.load_word(index, at)
        if word == 0:
            at = self.nearest(index, at) if self.endpoints.latency_updated(index) != 0 else -1
            if at < 0:
                return (in_flight - 1) * _UNKNOWN_NS
            word = self.endpoints.load_word(index, at)
        age = ((now >> _AGE_SHIFT) - word) & _AGE_MASK
        latency = float(word >> _AGE_BITS)
        # Another worker may have been later than this event.
        if age == 0 or age > _AGE_MASK // 2:
            return latency
        kept = self.decay / (self.decay + float(age << _AGE_SHIFT))
        return latency * kept * kept

    def level(self, load: int) -> int:
        """A load, in units of the set's `one`, in whole average requests: what is begun counts."""
        return (load + self.endpoints.one - 1) >> self.endpoints.shift

    def nearest(self, index: int, at: int) -> int:
        """The range nearest to `at` in which a latency is known, the lower of two; -1: there is none."""
        for distance in range(_RANGES):
            if at >= distance and self.endpoints.load_word(index, at - distance) != 0:
                return at - distance
            if at + distance < _RANGES and self.endpoints.load_word(index, at + distance) != 0:
                return at + distance
        return -1

    def known(self, index: int, at: int) -> float:
        """The latency in the range nearest to `at`, however old; 0: nothing is known."""
        found = self.nearest(index, at)
        return float(self.endpoints.load_word(index, found) >> _AGE_BITS) if found >= 0 else 0.0

    def highest(self, at: int) -> float:
        highest = 0.0
        for i in range(self.endpoints.size):
            highest = max(highest, self.known(i, at))
        return highest

    # The distribution of loads: those of endpoints that were compared, or that have answered a probe.

    def limit(self) -> int:
        """The step that the quantile falls into; loads of later ones are hot."""
        rest = self.quantile * self.observed
        for step in range(_STEPS):
            rest -= self.counts[step]
            if rest <= 0:
                return step
        return _STEPS - 1

    def count(self, step: int) -> None:
        self.counts[step] += 1
        self.observed += 1
        if self.observed >= _OBSERVED:
            self.observed = 0
            for i in range(_STEPS):
                self.counts[i] >>= 1
                self.observed += self.counts[i]
