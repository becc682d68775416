"""The endpoint where a request would be done first, by what each has to do and how fast it has done such work of late.

Shortest expected delay (as IPVS' `sed`, which takes the speeds from weights; Banawan and Zahorjan 1989) with speeds
that are learned. What is learned is not how long requests take, which grows with the number in flight, but how far
apart an endpoint's answers are while it has something to do: its service time, whether it works on one request after
another, on several at once, or on batches. Work that is late is taken into account while it is: a request that has been
at an endpoint for far longer than usual says that the endpoint stands still, long before an average of answers could.
"""

from array import array

from libc.stdint cimport uint64_t
from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet

from pydantic import Field

from lb.balancing.explained import Explained, Score
from lb.balancing.options import DecayOptions
from lb.config.units import MILLISECOND, MINUTE, Duration

# Endpoints that are compared, of many: the best of so many is hardly worse than the best of all.
cdef int WINDOW = 64
# Samples that an average is of: the first so many weigh alike, and from then on a new one as much as one of them. Slow
# endpoints have few, and of several that are equally slow the one would be chosen whose first sample was short.
cdef int SAMPLES = 12
# How many times as soon as others what a single sample says fades: the first of all may have loaded the model.
cdef double ALONE = 10.0
# How many averages one sample counts for at most: a stall is seen by the work that is late, and must not be remembered
# as the endpoint's speed.
cdef double MOST = 3.0
# Weight of a new sample in the average number in flight.
cdef double NEW = 0.1
# The same in the average latency where the sample is shorter: an endpoint that has become fast is believed soon.
cdef double FASTER = 0.3
# How many times the latency of the endpoint that would be done first is no longer than that.
cdef double ALIKE = 1.25
# A request's fair share of its latency, at least this much of which counts: the answers of a batch come all at once.
cdef double FAIR = 0.5
# What is left of a request that is almost due, and from when it is taken for stuck, in service times.
cdef double LEAST_LEFT = 0.3
cdef double LATE = 1.5
# More than any delay.
cdef double UNKNOWN_NS = 1e15


class ServiceTimeOptions(DecayOptions):
    decay: Duration = Field(
        default=MINUTE,
        ge=MILLISECOND,
        description="Time in which what is known of an idle endpoint's service time fades to about a third. Shorter "
        "finds out sooner that a slow endpoint has recovered, at the cost of requests that try it.",
    )


cdef class ShortestExpectedDelay(Policy):
    """The least (what is left of the request being served + load * service time) / weight, the new request included; of
    equal ones the next in turn. The load is requests in flight, or what they cost; then the service time is that of an
    average request.

    A request that has taken more than 1.5 service times is expected to take as long again. An idle endpoint's service
    time fades, so that a slow one gets a request again, and believed when it is fast; one of which nothing is known
    gets one request to show itself by.

    Of that endpoint and those of less weight whose requests have taken no longer of late, the one with the least
    (load, the request included) / weight is chosen. A server that works on many requests at once looks the faster the
    more it has, since its answers are less far apart: by the expected delay alone, the endpoint of most weight would
    keep all requests.
    """
    cdef double decay
    cdef double[::1] usual_in_flight
    cdef double[::1] latencies

    Options = ServiceTimeOptions

    def __init__(self, endpoints: EndpointSet, options: ServiceTimeOptions) -> None:
        Policy.__init__(self, endpoints, options)
        # Workers start at different endpoints: else the first of all of them would meet at one.
        self.rotation = endpoints.worker % endpoints.size if endpoints.size else 0
        self.by_cost = True
        self.by_service = True
        self.keeps_progress = True
        self.decay = float(options.decay)
        # Of each endpoint, the load that this worker's requests find there, themselves included: an average.
        self.usual_in_flight = array("d", (1.0,)) * endpoints.size
        # Of each endpoint, how long this worker's requests take there, in ns: an average; 0: nothing is known.
        self.latencies = array("d", (0.0,)) * endpoints.size

    cpdef int pick(self, Choice choice) except -2:
        cdef EndpointSet endpoints = self.endpoints
        cdef int best = -1
        cdef double best_delay = 0.0
        cdef int i = self.rotation
        cdef int seen, running, weight
        cdef int best_weight = 0, least_weight = 0
        cdef double delay
        for seen in range(endpoints.size):
            if seen >= WINDOW and best >= 0:
                break
            if i == endpoints.size:
                i = 0
            weight = choice.effective_weight(i)
            if weight > 0:
                delay = self.delay(i, choice) / weight
                if best < 0 or delay < best_delay:
                    best, best_delay, best_weight = i, delay, weight
                if least_weight == 0 or weight < least_weight:
                    least_weight = weight
            i += 1
        if best < 0:
            return -1
        if least_weight < best_weight:
            best = self.by_share(best, best_weight, choice)
        self.rotation = best + 1
        running = endpoints.outstanding(best)
        if running == 0:
            endpoints.set_progress(best, choice.now)
        self.usual_in_flight[best] += ((running + choice.cost) * endpoints.scale - self.usual_in_flight[best]) * NEW
        return best

    cdef int by_share(self, int best, int best_weight, Choice choice) noexcept:
        """The endpoint with the least load by weight, of `best` and those of less weight that are as fast."""
        cdef double least = self.held(best, best_weight, choice)
        cdef double load
        cdef int found = best
        cdef int i = self.rotation
        cdef int _seen, weight
        for _seen in range(min(self.endpoints.size, WINDOW)):
            if i >= self.endpoints.size:
                i = 0
            weight = choice.effective_weight(i)
            if self.is_alike(i, weight, best, best_weight, choice.now):
                load = self.held(i, weight, choice)
                if load < least:
                    found, least = i, load
            i += 1
        return found

    cdef bint is_alike(self, int index, int weight, int best, int best_weight, uint64_t now) noexcept:
        cdef double enough = ALIKE * self.latencies[best]
        cdef double latency = self.latencies[index]
        if not 0 < weight < best_weight or latency <= 0.0:
            return False
        if latency > enough and self.endpoints.outstanding(index) == 0:
            latency /= self.faded(index, self.since(self.endpoints.latency_updated(index), now))
        return latency <= enough

    cdef double held(self, int index, int weight, Choice choice) noexcept:
        """The load by weight, with the request that is to come."""
        return <double>(self.endpoints.outstanding(index) + choice.cost) / weight

    cdef double delay(self, int index, Choice choice) noexcept:
        """Nanoseconds until a request that goes to `index` now is expected to be done."""
        cdef uint64_t now = choice.now
        cdef double service = self.endpoints.latency_ns(index)
        cdef int running = self.endpoints.outstanding(index)
        cdef double own = choice.cost * self.endpoints.scale
        cdef double load = running * self.endpoints.scale
        cdef double elapsed, left, served
        if service <= 0:
            return load * UNKNOWN_NS
        if running <= 0:
            return service * own / self.faded(index, self.since(self.endpoints.latency_updated(index), now))
        elapsed = self.since(self.endpoints.progress(index), now)
        # What is being served costs as much as what is there does on average.
        served = service
        if self.endpoints.one > 1:
            served = service * load / max(self.endpoints.running(index), 1)
        left = max(served - elapsed, served * LEAST_LEFT) if elapsed < served * LATE else elapsed
        return left + max(load * service - served, 0.0) + service * own

    cdef double faded(self, int index, double idle) noexcept:
        """How many times less what is known of an endpoint says after so many nanoseconds without a word of it: little
        at first, and so much after some `decay` that whatever it was is tried again."""
        cdef int samples = self.endpoints.latency_samples(index)
        cdef double age = idle / self.decay
        cdef double grown
        if samples < 2:
            age *= ALONE
        # As exp(age * age), if not so steep when that is large, and cheaper.
        grown = 1.0 + age * age / 8
        grown *= grown
        grown *= grown
        return grown * grown

    cpdef void observe(self, int index, uint64_t now, uint64_t latency_ns, bint ok):
        self.learn(index, now, latency_ns, ok, 0, self.endpoints.one)

    cpdef void learn(self, int index, uint64_t now, uint64_t latency_ns, bint ok, int in_flight_at_start, int cost):
        """An answer came: it took its endpoint the time since the answer before it, or since it was sent. Of a batch
        that is so for the first answer only; for the others it is about their share of the time."""
        cdef EndpointSet endpoints = self.endpoints
        cdef double service = endpoints.latency_ns(index)
        cdef double sample = min(float(latency_ns), self.since(endpoints.progress(index), now))
        cdef double faded
        cdef int samples
        self.note_latency(index, now, float(latency_ns), ok)
        if endpoints.one > 1:
            # Of a request of several times the average cost, that part of the time.
            sample = sample * endpoints.one / cost
        sample = max(sample, latency_ns * FAIR / max(self.usual_in_flight[index], cost * endpoints.scale))
        if not ok:
            # An endpoint that refuses at once must not look fast.
            sample = max(sample, service if service > 0 else self.highest())
        samples = 1
        if service > 0:
            samples = endpoints.latency_samples(index)
            if sample * MOST < service:
                # Far faster than it was known to be. If it was idle meanwhile it may well be, as far as that has faded.
                faded = self.faded(index, self.since(endpoints.latency_updated(index) + latency_ns, now))
                service = max(service / faded, sample * MOST)
                samples = int(samples / faded)
            samples = min(samples + 1, SAMPLES)
            sample = service + (min(sample, service * MOST) - service) / samples
        endpoints.set_latency(index, max(sample, 1.0), now)
        endpoints.set_latency_samples(index, samples)
        endpoints.set_progress(index, now)

    cdef void note_latency(self, int index, uint64_t now, double latency, bint ok) noexcept:
        cdef double known = self.latencies[index]
        cdef double idle
        if not ok:
            latency = max(latency, known)     # as in `learn`
        if latency < known:
            idle = self.since(self.endpoints.latency_updated(index) + <uint64_t>latency, now)
            known = max(known / self.faded(index, idle), latency)
            latency = known + (latency - known) * FASTER
        elif known > 0:
            latency = known + (latency - known) * NEW
        self.latencies[index] = latency

    def explain(self, choice: Choice) -> Explained:
        endpoints = self.endpoints
        weights = {i: weight for i in range(endpoints.size) if (weight := choice.weight(i)) > 0}
        scores = {i: self.delay(i, choice) / weight for i, weight in weights.items()}
        if scores:
            # Of equal ones `pick` has the next in turn.
            best = min(scores, key=lambda i: (scores[i], (i - self.rotation) % endpoints.size))
            lowest = scores[best] / self.held(best, weights[best], choice)
            for i, weight in weights.items():
                if self.is_alike(i, weight, best, weights[best], choice.now):
                    scores[i] = lowest * self.held(i, weight, choice)
        services = [endpoints.latency_ns(i) for i in scores]
        notes = [f"service time {service / 1e6:.3g} ms" if service > 0 else "nothing known" for service in services]
        return Explained(
            "the least expected delay / weight, in ns; of equal ones the next in turn; of more than "
            f"{WINDOW} endpoints the first {WINDOW} from its turn on; then those of less weight whose requests take no "
            "longer are compared with it by load / weight",
            [Score(i, score, note) for (i, score), note in zip(scores.items(), notes, strict=True)],
        )

    cdef double since(self, uint64_t moment, uint64_t now) noexcept:
        # Another worker may have been later than this event.
        return float(now - moment) if now > moment else 0.0

    cdef double highest(self) noexcept:
        cdef double highest = 0.0
        cdef int i
        for i in range(self.endpoints.size):
            highest = max(highest, self.endpoints.latency_ns(i))
        return highest
