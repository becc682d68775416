"""The endpoint where a request would do best, by what was learned of each: the default.

Each endpoint's load curve (lb/balancing/load_curve) says how long a request takes there by the number that it finds,
whatever kind of server it is. A choice costs what a request would take at an endpoint that has nothing else to do, and
one to two and a half times what it would take beyond that, the more the busier the pool is: who waits makes all wait
that come after, so that the choice that is best for one is not best for all (Naor, "The regulation of queue size by
levying tolls", Econometrica 37(1), 1969; Krishnan, "Joining the right queue: a state-dependent decision rule", IEEE
Transactions on Automatic Control 35(1), 1990). Work that is late is taken into account while it is: an endpoint that
has been silent for far longer than usual stands still, long before an average could say so.

The same curves say from which number on an endpoint does no more: its limit. While nobody waits in the pool's queue and
some endpoint has room, a faster one may have twice its limit, since waiting there is what the costs compare. Once
somebody waits, limits hold as they are.
"""

from libc.stdint cimport uint32_t, uint64_t
from lb.balancing.load_curve cimport (
    CURVE_GROWS, CURVE_KNEE, CURVE_LOOKS, curve_answers, curve_due, curve_gap, curve_halve, curve_knee, curve_latency,
    curve_learn, curve_relax, curve_rests, curve_set_limit, curve_warm, tg_knee,
)
from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet

from pydantic import Field

from lb.balancing.explained import Explained, Score
from lb.balancing.options import DecayOptions
from lb.config.schema.base import Boolean
from lb.config.units import MILLISECOND, MINUTE, Duration

# Endpoints that are compared, of many: the best of so many is hardly worse than the best of all.
cdef int WINDOW = 64
# What waiting counts for at most, where requests wait for this part of their time. It grows with the fourth power of
# that part: a pool that has time to spare pays little. docs/adr/auto.md has the figures by which these were chosen.
cdef double WAITING = 2.5
cdef double WAITS = 0.45
cdef double WAITS_WEIGHT = 1.0 / 64
# What is left, at least, of the expected time between two answers; and from how many such times on nothing is said.
cdef double LEAST_LEFT = 0.3
cdef double LATE_LEFT = 1.5
# An endpoint is late from so many usual gaps on, and a millisecond.
cdef double LATE = 2.0
cdef double LATE_MORE_NS = 1e6
# Idle endpoints are alike within a quarter and 0.3 ms.
cdef double ALIKE = 1.25
cdef double ALIKE_NS = 3e5
# More than any cost.
cdef double UNKNOWN_NS = 1e15
cdef double NEW = 1.0 / 16
cdef uint64_t PRESSED_NS = 1_000_000_000
cdef int STRETCH = 2
# From so many answers on, what is known of an endpoint fades as slowly as `decay` says.
cdef double SURE = 24.0
# Of an endpoint of which nothing is known.
cdef int FIRST_LIMIT = 16


class AutoOptions(DecayOptions):
    decay: Duration = Field(
        default=MINUTE,
        ge=MILLISECOND,
        description="Time in which what is known of an idle endpoint fades to about a half. Shorter finds out sooner "
        "that a slow endpoint has recovered, at the cost of requests that try it.",
    )
    limits: Boolean = Field(
        default=True,
        description="Whether the number of requests that each endpoint is good for is learned, and requests beyond it "
        "wait in the pool's `queue`. `max_in_flight` is an upper bound then. `false`: `max_in_flight` alone limits.",
    )


cdef class Auto(Policy):
    """The least (time of a request alone + one to two and a half times the time that it waits), of equal ones the next
    in turn; where weights differ, that times load / weight.

    An endpoint of which nothing is known gets one request to show itself by. What is known of an idle one fades, so
    that a slow one is tried again. Over 64 endpoints it compares 64 at a time, in turn.
    """
    cdef double decay
    cdef double waits                 # the part of their time that requests wait where they were sent: an average
    cdef double waiting               # what waiting counts for
    # Of the last cost: the part of its time that a request would wait, and whether what the endpoint has is late.
    cdef double share
    cdef bint late
    cdef uint32_t draws               # a linear congruential generator: Press et al., "Numerical Recipes", 7.1

    Options = AutoOptions

    def __init__(self, endpoints: EndpointSet, options: AutoOptions) -> None:
        Policy.__init__(self, endpoints, options)
        # Workers start at different endpoints: else the first of all of them would meet at one.
        self.rotation = endpoints.worker % endpoints.size if endpoints.size else 0
        self.by_in_flight = True
        self.by_cost = True
        self.keeps_progress = True
        self.decay = float(options.decay)
        self.limits = options.limits
        self.waiting = 1.0
        self.waits = 0.0
        self.draws = endpoints.worker

    cpdef int pick(self, Choice choice) except -2:
        cdef EndpointSet endpoints = self.endpoints
        cdef int best = -1, open = -1, heavy = -1, heavy_open = -1, weight, least = 0, most = 0, running, limit, seen
        cdef int i = self.rotation
        cdef double cost, weighed, load, best_cost = 0.0, open_cost = 0.0, heavy_cost = 0.0, heavy_open_cost = 0.0
        cdef double full_cost = 0.0, full_rate = 0.0, best_share = 0.0, open_share = 0.0
        cdef bint idle, has_room
        cdef int full = -1, candidates = 0
        cdef bint strict = choice.turn
        if endpoints.size == 1:
            return self.only(choice)
        for seen in range(endpoints.size):
            if seen >= WINDOW and best >= 0:
                break
            if i >= endpoints.size:
                i = 0
            weight = choice.willing_weight(i)
            if weight > 0:
                running = endpoints.running(i)
                limit = endpoints.limit_now(i)
                if limit == 0 and endpoints.learned:
                    curve_set_limit(endpoints.records[i], FIRST_LIMIT, True, choice.now)
                has_room = limit == 0 or running < limit
                if has_room or running < endpoints.limit_of(i, STRETCH):
                    candidates += 1
                    load = endpoints.outstanding(i) * endpoints.scale
                    cost = self.cost(i, load, choice)
                    least = weight if least == 0 else min(least, weight)
                    most = max(most, weight)
                    weighed = cost * (load + choice.cost * endpoints.scale) / weight
                    if best < 0 or cost < best_cost:
                        best, best_cost, best_share = i, cost, self.share
                    if heavy < 0 or weighed < heavy_cost:
                        heavy, heavy_cost = i, weighed
                    if has_room:
                        if open < 0 or cost < open_cost:
                            open, open_cost, open_share = i, cost, self.share
                        if heavy_open < 0 or weighed < heavy_open_cost:
                            heavy_open, heavy_open_cost = i, weighed
                    elif strict and not self.late:
                        full_rate += (load + 1.0) / max(curve_latency(endpoints.records[i], load + 1.0), 1.0)
                        if full < 0 or cost < full_cost:
                            full, full_cost = i, cost
            i += 1
        if least != most:
            best, open = heavy, heavy_open
        if strict or open < 0:
            best = open
        if strict and open >= 0 and full >= 0 and full_cost + self.waiting * endpoints.waiting / full_rate < open_cost:
            return -1                         # one that has no room now, and goes on, is worth waiting for
        if best < 0:
            self.relax(choice)
            return -1
        self.note_wait(open_share if best == open else best_share)
        idle = endpoints.running(best) == 0
        if idle and least == most and candidates > 1:
            best = self.next_idle(best, open_cost if best == open else best_cost, choice)
        choice.stretch = 1 if strict else STRETCH
        self.rotation = best + 1
        if idle:
            endpoints.set_progress(best, choice.now)
        return best

    cdef int only(self, Choice choice) noexcept:
        """The one endpoint of a pool, while it has room: there is nothing to compare."""
        cdef EndpointSet endpoints = self.endpoints
        cdef int running = endpoints.running(0), limit = endpoints.limit_now(0)
        if choice.willing_weight(0) <= 0:
            return -1
        if limit and running >= limit:
            self.relax(choice)
            return -1
        if limit == 0 and endpoints.learned:
            curve_set_limit(endpoints.records[0], FIRST_LIMIT, True, choice.now)
        choice.stretch = 1
        if running == 0:
            endpoints.set_progress(0, choice.now)
        return 0

    cdef int next_idle(self, int best, double cost, Choice choice) noexcept:
        """The next in turn of idle endpoints that are as good as `best`, one of them: else the one that seems a little
        faster would have all requests while there are few."""
        cdef EndpointSet endpoints = self.endpoints
        cdef double most = cost * ALIKE + ALIKE_NS
        cdef int i = self.rotation, _seen
        for _seen in range(min(endpoints.size, WINDOW)):
            if i >= endpoints.size:
                i = 0
            if i == best:
                return best
            if endpoints.running(i) == 0 and choice.willing_weight(i) > 0 and self.cost(i, 0.0, choice) <= most:
                return i
            i += 1
        return best

    cdef void note_wait(self, double share) noexcept:
        """`share` of the time of the request that is sent now it will wait."""
        self.waits += (share - self.waits) * WAITS_WEIGHT
        cdef double pressure = min(1.0, self.waits / WAITS)
        pressure *= pressure
        self.waiting = 1.0 + (WAITING - 1.0) * pressure * pressure

    cdef double cost(self, int index, double load, Choice choice) noexcept:
        """Nanoseconds, what a request waits counted `waiting` times."""
        cdef EndpointSet endpoints = self.endpoints
        cdef double own = choice.cost * endpoints.scale
        cdef double takes = curve_latency(endpoints.records[index], load + own), alone, gap, silent
        self.share = 0.0
        self.late = False
        if takes <= 0:
            return load * UNKNOWN_NS
        if load <= 0:
            return takes / self.faded(index, choice.now)
        alone = min(takes, curve_latency(endpoints.records[index], own))
        self.share = (takes - alone) / takes
        silent = since(endpoints.progress(index), choice.now)
        gap = takes / (load + own / 2)
        if silent < LATE_LEFT * gap:
            # The curve is an average over what was left of the request being served: half of it.
            # Where requests hardly wait for each other, answers come at any time.
            takes += (max(gap - silent, LEAST_LEFT * gap) - gap / 2) * min(2 * (takes - alone) / takes, 1.0)
        elif silent > LATE * max(curve_gap(endpoints.records[index]), gap) + LATE_MORE_NS:
            takes += silent
            self.late = True
        return alone + self.waiting * max(takes - alone, 0.0)

    cdef double usual_gap(self, int index) noexcept:
        """What is in flight is answered one after another in the time that the last of it takes, whether one by one or
        several at a time."""
        cdef EndpointSet endpoints = self.endpoints
        cdef double load = max(endpoints.outstanding(index) * endpoints.scale, 1.0)
        cdef double takes = curve_latency(endpoints.records[index], load)
        return max(curve_gap(endpoints.records[index]), takes / max(load - 0.5, 1.0)) if takes > 0 else 0.0

    cdef double faded(self, int index, uint64_t now) noexcept:
        """How many times less what is known of an endpoint says after so long without a word of it, the sooner the
        fewer answers that is known from: its first ones may have come while it started."""
        cdef double answers = max(curve_answers(self.endpoints.records[index]), 1.0)
        cdef double age = since(self.endpoints.latency_updated(index), now) / (self.decay * min(answers / SURE, 1.0))
        cdef double grown = 1.0 + age * age / 8
        grown *= grown
        return grown * grown

    cdef void relax(self, Choice choice) noexcept:
        """Nobody has room: limits that nothing is heard to confirm give way."""
        cdef EndpointSet endpoints = self.endpoints
        cdef int i
        if not endpoints.learned:
            return
        for i in range(endpoints.size):
            if choice.willing_weight(i) > 0:
                curve_relax(endpoints.records[i], endpoints.progress(i), choice.now)

    cpdef void observe(self, int index, uint64_t now, uint64_t latency_ns, bint ok):
        self.learn(index, now, latency_ns, ok, 0, self.endpoints.one)

    cpdef void learn(self, int index, uint64_t now, uint64_t latency_ns, bint ok, int in_flight_at_start, int cost):
        """A failed one teaches nothing but that the endpoint has answered: how often it fails is in the pool's care."""
        cdef EndpointSet endpoints = self.endpoints
        cdef double known = endpoints.latency_ns(index), gap
        cdef uint64_t heard = endpoints.latency_updated(index)
        gap = since(endpoints.progress(index), now)
        endpoints.set_progress(index, now)
        if not ok or in_flight_at_start <= 0:
            return
        self.draws = self.draws * <uint32_t>1664525 + <uint32_t>1013904223
        if curve_rests(endpoints.records[index], self.draws >> 16):
            return
        if not curve_warm(endpoints.records[index], heard, now - latency_ns, now):
            endpoints.set_latency(index, known, now)
            return
        endpoints.set_latency(index, known + (latency_ns - known) * NEW if known > 0 else <double>latency_ns, now)
        curve_learn(endpoints.records[index], in_flight_at_start, latency_ns, gap, now)
        if endpoints.learned and curve_due(endpoints.records[index], now):
            self.find_limit(index, now)

    cpdef void abandoned(self, int index, uint64_t now, uint64_t waited_ns):
        cdef EndpointSet endpoints = self.endpoints
        cdef double alone = curve_latency(endpoints.records[index], 1.0)
        if endpoints.learned and <double>waited_ns > LATE * alone:
            curve_halve(endpoints.records[index], endpoints.running(index), now)

    cdef void find_limit(self, int index, uint64_t now) noexcept:
        cdef EndpointSet endpoints = self.endpoints
        cdef tg_knee found = self.knee(index, now)
        if found.limit:
            curve_set_limit(endpoints.records[index], found.limit, found.kind == CURVE_GROWS, now)

    cdef tg_knee knee(self, int index, uint64_t now) noexcept:
        cdef EndpointSet endpoints = self.endpoints
        cdef bint pressed = endpoints.pressed_ns != 0 and now < endpoints.pressed_ns + PRESSED_NS
        return curve_knee(
            endpoints.records[index], endpoints.allowed_ns, pressed, endpoints.running(index), now)

    def explain(self, choice: Choice) -> Explained:
        endpoints = self.endpoints
        scores = []
        weights = {choice.weight(i) for i in range(endpoints.size)} - {0}
        for i in range(endpoints.size):
            weight = choice.weight(i)
            if weight > 0:
                load = endpoints.load(i)
                score = self.cost(i, load, choice) / 1e6
                if len(weights) > 1:
                    score *= (load + choice.cost * endpoints.scale) / weight
                scores.append(Score(i, score, self.belief(i, choice.now)))
        rule = f"the least expected time in ms, waiting counted {self.waiting:.2g} times"
        if len(weights) > 1:
            rule += ", times load / weight"
        return Explained(f"{rule}; of equal ones the next in turn", scores)

    def belief(self, index: int, now: int) -> str:
        """What is believed of endpoint `index` at `now` (monotonic ns), for people. Raises IndexError."""
        self.endpoints.check(index)
        return self.believed(index, now)

    cdef str believed(self, int index, uint64_t now):
        cdef EndpointSet endpoints = self.endpoints
        cdef double alone = curve_latency(endpoints.records[index], 1.0), batch
        cdef tg_knee found = self.knee(index, now)
        if alone <= 0:
            return "nothing known"
        text = f"{alone / 1e6:.3g} ms for a request alone"
        if found.kind in (CURVE_KNEE, CURVE_LOOKS):
            batch = curve_gap(endpoints.records[index]) * found.rate
            if found.knee <= 1:
                text += f", one after another: {1e9 * found.rate:.3g}/s"
            elif batch > 3.0:
                text += f", in batches of about {batch:.0f}: {1e9 * found.rate:.3g}/s"
            else:
                text += f", about {found.knee} at a time: {1e9 * found.rate:.3g}/s"
            if found.kind == CURVE_LOOKS:
                text += ", whether fewer would do is being tried"
        elif found.rate > 0:
            text += f", does more with more in flight: {1e9 * found.rate:.3g}/s so far"
        limit = endpoints.limit(index)
        if limit:
            text += f"; limit {limit}"
        return text


cdef inline double since(uint64_t moment, uint64_t now) noexcept:
    # Another worker may have been later than this event.
    return <double>(now - moment) if now > moment else 0.0
