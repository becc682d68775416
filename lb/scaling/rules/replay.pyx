"""What would have been: ways to scale, side by side, over the requests that a pool really got.

A pool is replayed as a fluid. Requests come at the rate that was seen, replicas that were ordered in time serve them,
the rest is backlog, and those that find too much of it are late. A way costs some ten nanoseconds a look, so that
hundreds are followed all the time.

A *candidate* asks for `headroom` times the highest of a predicted rate over a `hold`, and for what drains a backlog.
A *reference* is a rule that people know, with its defaults: what it costs is what a pool may cost.
"""

from libc.math cimport INFINITY, ceil, exp, floor, fmax, fmin, pow, sqrt
from libc.stdlib cimport abs, calloc, free
from libc.string cimport memset

from collections.abc import Sequence

cdef enum:
    COUNT = 5                         # references
    PARTS = 8                         # of a span of time, each with its own extreme
    HPA_RECOMMENDATIONS = 20          # 300 s of decisions
    KPA_STABLE = 60                   # s
    KPA_PANIC = 6
    RAY_LOOK_BACK = 30
    LOW_POINTS = 15                   # minutes
    HIGH_POINTS = 3

cdef double EPSILON = 1e-9
# Replica seconds that a change by one replica costs in the eyes of a candidate: what flaps is no good.
cdef double CHANGE = 5.0
# A replica is given back when the load has fallen by so much more than it has to, in replicas or as a part of it.
cdef double SLACK = 0.25
# s of experience before a candidate may have less than what comes.
cdef double BOLD = 3600.0
cdef double SLACK_SHARE = 0.02
# References whose late requests differ by less are alike: as a factor, and as a part of all requests.
cdef double ABOUT = 1.25
cdef double NOTHING = 0.00002
# Of what comes now, however little of the highest a candidate asks for.
cdef double LEAST_HEADROOM = 1.0
# Chances below e^-20 are none.
cdef double UNLIKELY = 20.0


cdef struct tg_shape:                 # of the pool, as it is known at a look
    double rate                       # requests/s that a replica can serve
    double service                    # s
    double places                     # requests that a replica serves at once
    double steady                     # requests/s, the mean of some seconds
    double patience                   # s that a request may wait
    int minimum
    int maximum


cdef struct tg_pool:
    int wanted
    int ready
    int least[PARTS + 1]              # wanted, in the present part of the start time and in those before
    double backlog                    # requests
    double late                       # requests, those of long ago counting less
    double paid                       # replica seconds, the same
    double busy                       # requests in service, mean of the last look
    double waiting                    # requests in the queue, the same


cdef struct tg_peak:                  # the highest of a hold
    double highest
    double parts[PARTS + 1]


cdef inline double late_within(double servers, double load, double patience, double service) noexcept nogil:
    """The share of requests that wait longer than `patience` while the pool keeps up: `load` is in servers.

    Sakasegawa's approximation of the chance to wait in M/M/c (1977), and an exponential tail, twice as steep for equal
    service times (Kingman).
    """
    cdef double exponent
    if load >= servers:
        return 1.0
    exponent = 2.0 * (servers - load) * patience / service
    if exponent > UNLIKELY:
        return 0.0
    return pow(load / servers, sqrt(2.0 * (servers + 1.0)) - 1.0) * exp(-exponent)


cdef inline double waiting_within(double servers, double load) noexcept nogil:
    """Requests that wait on the mean while the pool keeps up: Sakasegawa's approximation (1977) for equal service
    times."""
    cdef double use = load / servers
    if use >= 0.98:
        return 0.0                    # the backlog says it
    return 0.5 * pow(use, sqrt(2.0 * (servers + 1.0))) / (1.0 - use)


cdef inline void serve(tg_pool *pool, const tg_shape *shape, double rate, double span, double weight) noexcept nogil:
    """`span` s of requests at `rate` for the replicas that are ready."""
    cdef double capacity = pool.ready * shape.rate
    cdef double bound = capacity * fmax(shape.patience, 0.0)      # a longer backlog makes those that come late
    cdef double before = pool.backlog
    cdef double after = before + (rate - capacity) * span
    cdef double over = 0.0            # part of the span in which they do
    if before > bound and after > bound:
        over = 1.0
    elif after > bound:
        over = (after - bound) / (after - before)
    elif before > bound:
        over = (before - bound) / (before - after)
    if over < 1.0 and shape.steady < capacity:
        # What the rate does from look to look is the backlog's business already.
        over += (1.0 - over) * late_within(
            pool.ready * shape.places, shape.steady * shape.service, fmax(shape.patience, 0.0), shape.service
        )
    pool.backlog = fmax(after, 0.0)
    pool.busy = (before + rate * span - pool.backlog) / span * shape.service
    pool.waiting = 0.5 * (before + pool.backlog)
    pool.late += weight * over * rate * span
    pool.paid += weight * pool.wanted * span


cdef inline void set_up(tg_pool *pool, int wanted) noexcept nogil:
    cdef int i
    pool.wanted = pool.ready = wanted
    pool.backlog = pool.busy = pool.waiting = 0.0
    for i in range(PARTS + 1):
        pool.least[i] = wanted


cdef inline double slack(double replicas) noexcept nogil:
    """The fewest replicas to scale in to for a load of so many."""
    return ceil(replicas + fmax(SLACK, SLACK_SHARE * replicas) - EPSILON)


cdef inline void want(
    tg_pool *pool, double replicas, const tg_shape *shape, int parts, int passed, bint candidate, double weight
) noexcept nogil:
    """So many from now on. Of replicas the newest go first, so that as many are ready as were wanted all the time that
    a start takes: `parts` parts, of which `passed` are new since the look before. A candidate is
    slow to give replicas back, and pays for changes."""
    cdef int wanted, i
    if replicas >= shape.maximum:
        wanted = shape.maximum
    else:
        wanted = <int>ceil(replicas - EPSILON)
        if wanted < shape.minimum:
            wanted = shape.minimum
    if candidate and wanted < pool.wanted:
        wanted = <int>fmin(pool.wanted, fmax(shape.minimum, slack(replicas)))
    for i in range(PARTS, 0, -1):
        if i >= passed:
            pool.least[i] = pool.least[i - passed]
        else:
            pool.least[i] = pool.wanted
    if passed:
        pool.least[0] = wanted
    elif wanted < pool.least[0]:
        pool.least[0] = wanted
    if candidate:
        pool.paid += weight * CHANGE * abs(wanted - pool.wanted)
    pool.wanted = wanted
    pool.ready = wanted
    for i in range(parts):
        if pool.least[i] < pool.ready:
            pool.ready = pool.least[i]


cdef struct tg_mean:                  # since the last decision
    double total
    double seconds


cdef struct tg_window:                # the values of the last seconds
    double values[KPA_STABLE]
    tg_mean second
    int count
    int next


cdef struct tg_cooldown:              # of AWS: lb.scaling.cooldown
    int base                          # replicas before those that were added; -1 = none
    double out_until
    double in_until


cdef inline void note(tg_mean *mean, double value, double span) noexcept nogil:
    mean.total += value * span
    mean.seconds += span


cdef inline double taken_mean(tg_mean *mean) noexcept nogil:
    cdef double value = mean.total / mean.seconds if mean.seconds > 0.0 else 0.0
    mean.total = mean.seconds = 0.0
    return value


cdef inline void push(tg_window *window, double value, double span, int size) noexcept nogil:
    note(&window.second, value, span)
    if window.second.seconds < 1.0 - EPSILON:
        return
    window.values[window.next] = taken_mean(&window.second)
    window.next = (window.next + 1) % size
    if window.count < size:
        window.count += 1


cdef inline double mean_of(const tg_window *window, int last, int size) noexcept nogil:
    """Of the `last` values at most."""
    cdef double total = 0.0
    cdef int i
    cdef int count = last if last < window.count else window.count
    for i in range(1, count + 1):
        total += window.values[(window.next - i + size) % size]
    return total / count if count else 0.0


cdef inline double up(double value) noexcept nogil:
    return ceil(value - EPSILON)


cdef struct tg_hpa:
    tg_pool pool
    tg_mean busy
    double decided
    double recommendations[HPA_RECOMMENDATIONS]
    int count
    int next


cdef double hpa(tg_hpa *self, const tg_shape *shape, double now, double span) noexcept nogil:
    """lb.scaling.rules.hpa with `cpu` at 80."""
    cdef double wanted = self.pool.wanted
    cdef double busy, ratio, all, highest
    cdef int i
    note(&self.busy, self.pool.busy, span)
    if now - self.decided < 15.0 - EPSILON or self.pool.ready == 0:
        return wanted
    self.decided = now
    busy = taken_mean(&self.busy) / (0.8 * shape.places)
    ratio = busy / self.pool.ready
    all = self.pool.wanted if ratio > 1.0 else self.pool.ready
    highest = wanted
    if not 0.9 <= busy / all <= 1.1:
        highest = fmax(up(busy), wanted) if ratio > 1.0 else fmin(up(busy), wanted)
    self.recommendations[self.next] = highest
    self.next = (self.next + 1) % HPA_RECOMMENDATIONS
    if self.count < HPA_RECOMMENDATIONS:
        self.count += 1
    if highest > wanted:
        return fmin(highest, fmax(2.0 * wanted, wanted + 4.0))
    for i in range(self.count):
        highest = fmax(highest, self.recommendations[i])
    return fmin(highest, wanted) if self.count == HPA_RECOMMENDATIONS else wanted


cdef struct tg_kpa:
    tg_pool pool
    tg_window window
    double decided
    double panic_until                # 0 = no panic
    double peak


cdef double kpa(tg_kpa *self, const tg_shape *shape, double now, double span) noexcept nogil:
    """lb.scaling.rules.kpa with the places of a replica as its container concurrency."""
    cdef double target = 0.7 * shape.places
    cdef double ready = self.pool.ready if self.pool.ready > 0 else 1
    cdef double stable, panic, wanted
    push(&self.window, self.pool.busy + self.pool.waiting, span, KPA_STABLE)
    if now - self.decided < 2.0 - EPSILON:
        return self.pool.wanted
    self.decided = now
    stable = up(mean_of(&self.window, KPA_STABLE, KPA_STABLE) / target)
    panic = up(mean_of(&self.window, KPA_PANIC, KPA_STABLE) / target)
    if panic / ready >= 2.0:
        self.panic_until = now + KPA_STABLE
    elif now > self.panic_until:
        self.panic_until = self.peak = 0.0
    wanted = fmin(fmax(stable, floor(ready / 2.0)), 1000.0 * ready)
    if self.panic_until == 0.0:
        return wanted
    self.peak = fmax(self.peak, fmax(wanted, fmin(panic, 1000.0 * ready)))
    return self.peak


cdef double base_of(tg_cooldown *cooldown, double wanted, double now) noexcept nogil:
    if cooldown.base >= 0 and now >= cooldown.out_until:
        cooldown.base = -1
    return wanted if cooldown.base < 0 else fmin(cooldown.base, wanted)


cdef double cooled(tg_cooldown *cooldown, double before, double after, double now) noexcept nogil:
    """What of a change is allowed now; it is made."""
    if after < before and (now < cooldown.out_until or now < cooldown.in_until):
        return before
    if after > before:
        if cooldown.base < 0:
            cooldown.base = <int>before
        cooldown.out_until = now + 300.0
        cooldown.in_until = 0.0
    elif after < before:
        cooldown.base = -1
        cooldown.in_until = now + 300.0
    return after


cdef struct tg_alarms:
    tg_pool pool
    tg_mean busy
    double decided
    tg_cooldown cooldown
    int above                         # data points in a row
    int below


cdef void calm(tg_alarms *self, double now) noexcept nogil:
    """No data point, no cooldown; the next data point ends a minute from now."""
    self.busy.total = self.busy.seconds = 0.0
    self.decided = now
    self.above = self.below = 0
    self.cooldown.base = -1
    self.cooldown.out_until = self.cooldown.in_until = 0.0


cdef bint point(tg_alarms *self, const tg_shape *shape, double now, double span, double *use) noexcept nogil:
    """Whether a data point has ended: the use of a ready replica."""
    note(&self.busy, self.pool.busy, span)
    if now - self.decided < 60.0 - EPSILON or self.pool.ready == 0:
        return False
    self.decided = now
    use[0] = taken_mean(&self.busy) / (self.pool.ready * shape.places)
    return True


cdef double target_tracking(tg_alarms *self, const tg_shape *shape, double now, double span) noexcept nogil:
    """lb.scaling.rules.target_tracking with `cpu` at 50."""
    cdef double wanted = self.pool.wanted
    cdef double after = wanted
    cdef double use
    if not point(self, shape, now, span, &use):
        return wanted
    self.above = self.above + 1 if use > 0.5 else 0
    self.below = self.below + 1 if use < 0.45 else 0
    if self.above >= HIGH_POINTS:
        after = fmax(wanted, up(base_of(&self.cooldown, wanted, now) * use / 0.5))
    elif self.below >= LOW_POINTS:
        after = fmin(wanted, up(wanted * use / 0.5))
    return cooled(&self.cooldown, wanted, fmax(after, shape.minimum), now)


cdef double step(tg_alarms *self, const tg_shape *shape, double now, double span) noexcept nogil:
    """lb.scaling.rules.step with the example of AWS' documentation."""
    cdef double wanted = self.pool.wanted
    cdef double after = wanted
    cdef double use, base
    if not point(self, shape, now, span, &use):
        return wanted
    self.above = self.above + 1 if use >= 0.6 else 0
    self.below = self.below + 1 if use <= 0.4 else 0
    if self.above >= 2:
        base = base_of(&self.cooldown, wanted, now)
        after = fmax(wanted, base + fmax(1.0, floor(base * (0.3 if use >= 0.7 else 0.1) + EPSILON)))
    elif self.below >= 2:
        after = wanted - fmax(1.0, floor(wanted * (0.3 if use <= 0.3 else 0.1) + EPSILON))
    return cooled(&self.cooldown, wanted, fmax(after, shape.minimum), now)


cdef struct tg_ray:
    tg_pool pool
    tg_window window
    int direction
    double since


cdef double ray(tg_ray *self, const tg_shape *shape, double now, double span) noexcept nogil:
    """lb.scaling.rules.ray."""
    cdef double wanted = self.pool.wanted
    cdef double desired
    cdef int direction
    push(&self.window, self.pool.busy + self.pool.waiting, span, RAY_LOOK_BACK)
    desired = up(mean_of(&self.window, RAY_LOOK_BACK, RAY_LOOK_BACK) / 2.0)
    desired = fmin(fmax(desired, shape.minimum), shape.maximum)
    direction = 1 if desired > wanted else -1 if desired < wanted else 0
    if direction != self.direction:
        self.direction = direction
        self.since = now
    if direction == 0 or now - self.since < (30.0 if direction > 0 else 600.0):
        return wanted
    self.direction = 0
    return desired


cdef struct tg_candidate:
    int predictor
    int hold
    double headroom
    double drain                      # of the start time
    tg_pool pool


cdef class Replay:
    """Candidates for every predictor, hold and headroom.

    A predictor is a mean of the rate with exponentially falling weights of `smoothings` s (0: the last look alone), or,
    for each pair of `trends`, the mean of the first with the slope between both, drawn on to when a replica that is
    ordered now serves. `memory` s is the time after which what happened counts for 1/e.
    """
    cdef int predictors
    cdef int means
    cdef int holds
    cdef int count
    cdef int rungs
    cdef readonly double spent
    cdef double *smoothings
    cdef double *mean
    cdef double *known                # weights of what each mean has seen, 1 in the end
    cdef int *trend                   # pairs of means
    cdef double *hold                 # s
    cdef double *hold_age             # s of the present part of a hold
    cdef tg_peak *peaks
    cdef tg_candidate *candidates
    cdef double start_age
    cdef double memory
    cdef double weight                # of what happens now; that of the past stays 1
    cdef readonly double seconds      # weighted time of the replay
    cdef double lived                 # s, not weighted
    cdef readonly double requests     # weighted
    cdef tg_hpa hpa
    cdef tg_kpa kpa
    cdef tg_alarms target_tracking
    cdef tg_alarms step
    cdef tg_ray ray
    cdef tg_pool *references[COUNT]
    cdef double now
    cdef tg_shape shape
    cdef double start
    cdef double span

    def __cinit__(
        self, smoothings: Sequence[float], trends: Sequence[tuple[int, int]], used: Sequence[int],
        holds: Sequence[float], drains: Sequence[float], headrooms: Sequence[float], double memory,
    ):
        cdef int p, d, i = 0
        self.means = len(smoothings)
        self.predictors = self.means + len(trends)
        self.holds = len(holds)
        self.count = len(used) * self.holds * len(drains) * len(headrooms)
        self.rungs = len(headrooms)
        self.memory = memory
        self.weight = 1.0
        self.references = [&self.hpa.pool, &self.kpa.pool, &self.target_tracking.pool, &self.step.pool, &self.ray.pool]
        self.smoothings = <double *>taken(self.means, sizeof(double))
        self.mean = <double *>taken(self.predictors, sizeof(double))
        self.known = <double *>taken(self.means, sizeof(double))
        self.trend = <int *>taken(2 * len(trends), sizeof(int))
        self.hold = <double *>taken(self.holds, sizeof(double))
        self.hold_age = <double *>taken(self.holds, sizeof(double))
        self.peaks = <tg_peak *>taken(self.predictors * self.holds, sizeof(tg_peak))
        self.candidates = <tg_candidate *>taken(self.count, sizeof(tg_candidate))
        for p in range(self.means):
            self.smoothings[p] = smoothings[p]
        for p, pair in enumerate(trends):
            self.trend[2 * p], self.trend[2 * p + 1] = pair
        for d in range(self.holds):
            self.hold[d] = holds[d]
        for p in used:
            for d in range(self.holds):
                for drain in drains:
                    for headroom in headrooms:
                        self.candidates[i].predictor = p
                        self.candidates[i].hold = d
                        self.candidates[i].drain = drain
                        self.candidates[i].headroom = headroom
                        i += 1

    def __dealloc__(self):
        free(self.smoothings)
        free(self.mean)
        free(self.known)
        free(self.trend)
        free(self.hold)
        free(self.hold_age)
        free(self.peaks)
        free(self.candidates)

    def __len__(self) -> int:
        return self.count

    def begin(self, int wanted) -> None:
        """Every pool of the replay has so many ready replicas, no backlog, and a rule that remembers nothing; what was
        found so far stays."""
        cdef int i
        self.hpa.count = self.hpa.next = 0
        self.hpa.busy.total = self.hpa.busy.seconds = 0.0
        self.kpa.panic_until = self.kpa.peak = 0.0
        self.ray.direction = 0
        self.hpa.decided = self.kpa.decided = self.now
        memset(&self.kpa.window, 0, sizeof(tg_window))
        memset(&self.ray.window, 0, sizeof(tg_window))
        calm(&self.target_tracking, self.now)
        calm(&self.step, self.now)
        for i in range(self.count):
            set_up(&self.candidates[i].pool, wanted)
        for i in range(COUNT):
            set_up(self.references[i], wanted)

    def shaped(
        self, double service, double places, double patience, double start, int minimum, int maximum
    ) -> None:
        """What is known of the pool from now on: times in s, `places` for each replica."""
        self.shape.service = service
        self.shape.places = places
        self.shape.rate = places / service
        self.shape.patience = patience
        self.shape.minimum = minimum
        self.shape.maximum = maximum
        self.start = start

    def note(self, double span, double requests) -> None:
        """`requests` came in `span` s to a pool without any replica: the load is known, and nobody is judged by it."""
        self.span = span
        self.predict(requests / span, span)
        self.keep(span)

    def steady(self) -> float:
        """Requests/s, the mean of some seconds."""
        return self.mean[1]

    def see(self, double span, double requests) -> None:
        """`requests` came in `span` s. Each candidate is served, then it decides."""
        cdef double rate = requests / span
        cdef double part, base
        cdef int passed = 0
        cdef int parts, i
        cdef tg_candidate *c
        self.span = span
        self.predict(rate, span)
        self.shape.steady = self.mean[1]
        for i in range(self.count):
            serve(&self.candidates[i].pool, &self.shape, rate, span, self.weight)
        for i in range(COUNT):
            serve(self.references[i], &self.shape, rate, span, self.weight)
            # Rules that count requests see those that wait for chance alone, too.
            if self.references[i].ready > 0:
                self.references[i].waiting += waiting_within(
                    self.references[i].ready * self.shape.places, self.shape.steady * self.shape.service
                )
        self.now += span
        self.requests += self.weight * requests
        self.seconds += self.weight * span
        self.lived += span
        self.keep(span)
        part = fmax(self.start / PARTS, span)
        parts = <int>ceil(self.start / part - EPSILON)
        self.start_age += span
        while self.start_age >= part - EPSILON and passed <= PARTS:
            self.start_age -= part
            passed += 1
        if self.start_age < 0.5 * part:
            parts += 1                # the present part, so that on the mean the parts are as long as a start
        base = 1.0 / self.shape.rate
        for i in range(self.count):
            c = &self.candidates[i]
            want(&c.pool, base * self.asked(c, c.pool.backlog, c.pool.ready), &self.shape, parts, passed,
                 True, self.weight)
        self.refer(parts, passed)
        self.weight *= exp(span / self.memory)
        if self.weight > 1e12:
            self.rescale()

    cdef void refer(self, int parts, int passed) noexcept nogil:
        """The references decide."""
        cdef const tg_shape *shape = &self.shape
        cdef double now = self.now
        cdef double span = self.span
        want(&self.hpa.pool, hpa(&self.hpa, shape, now, span), shape, parts, passed, False, 0.0)
        want(&self.kpa.pool, kpa(&self.kpa, shape, now, span), shape, parts, passed, False, 0.0)
        want(&self.target_tracking.pool, target_tracking(&self.target_tracking, shape, now, span), shape, parts, passed,
             False, 0.0)
        want(&self.step.pool, step(&self.step, shape, now, span), shape, parts, passed, False, 0.0)
        want(&self.ray.pool, ray(&self.ray, shape, now, span), shape, parts, passed, False, 0.0)

    cdef void predict(self, double rate, double span) noexcept nogil:
        cdef int p
        cdef int fast, slow
        cdef double share, slope
        for p in range(self.means):
            share = 1.0 if self.smoothings[p] <= span else 1.0 - exp(-span / self.smoothings[p])
            self.known[p] += share * (1.0 - self.known[p])
            # Divided by what is known, the weights of a short past add up to 1 as well.
            self.mean[p] += share / self.known[p] * (rate - self.mean[p])
        for p in range(self.means, self.predictors):
            fast, slow = self.trend[2 * (p - self.means)], self.trend[2 * (p - self.means) + 1]
            slope = (self.mean[fast] - self.mean[slow]) / (self.smoothings[slow] - self.smoothings[fast])
            self.mean[p] = self.mean[fast] + fmax(slope, 0.0) * (self.start + self.smoothings[fast] + span)

    cdef void keep(self, double span) noexcept nogil:
        """The highest of each hold; a hold is so many parts and the present one."""
        cdef int p, d, i, passed
        cdef double part
        cdef tg_peak *peak
        for d in range(self.holds):
            part = fmax(self.hold[d] / PARTS, span)
            passed = 0
            self.hold_age[d] += span
            while self.hold_age[d] >= part - EPSILON and passed <= PARTS:
                self.hold_age[d] -= part
                passed += 1
            for p in range(self.predictors):
                peak = &self.peaks[p * self.holds + d]
                if passed:
                    for i in range(PARTS, 0, -1):
                        peak.parts[i] = peak.parts[i - passed] if i >= passed else self.mean[p]
                    peak.parts[0] = self.mean[p]
                    peak.highest = self.mean[p]
                    if self.hold[d] > 0.0:
                        for i in range(1, PARTS + 1):
                            peak.highest = fmax(peak.highest, peak.parts[i])
                elif self.mean[p] > peak.parts[0]:
                    peak.parts[0] = self.mean[p]
                    peak.highest = fmax(peak.highest, self.mean[p])

    cdef void rescale(self) noexcept nogil:
        cdef int i
        for i in range(self.count):
            self.candidates[i].pool.late /= self.weight
            self.candidates[i].pool.paid /= self.weight
        for i in range(COUNT):
            self.references[i].late /= self.weight
            self.references[i].paid /= self.weight
        self.requests /= self.weight
        self.spent /= self.weight
        self.seconds /= self.weight
        self.weight = 1.0

    def late(self, int i) -> float:
        """Late requests of candidate `i`, weighted as `requests` are."""
        return self.candidates[i].pool.late

    def paid(self, int i) -> float:
        """Replica seconds of candidate `i`, weighted as `seconds` are, and what its changes cost."""
        return self.candidates[i].pool.paid

    def reference(self, int i) -> tuple[float, float]:
        """Late requests and replica seconds of the rules hpa, kpa, target_tracking, step, ray."""
        return self.references[i].late, self.references[i].paid

    def parameters(self, int i) -> tuple[int, int, float, float]:
        """Numbers of predictor and hold, headroom, and part of the start time in which a backlog is to be served."""
        cdef tg_candidate *c = &self.candidates[i]
        return c.predictor, c.hold, c.headroom, c.drain

    def spend(self, double replica_seconds) -> None:
        """What the pool itself has cost since the look before."""
        self.spent += self.weight * replica_seconds

    def kept(self) -> list[float]:
        """What was found of candidates and references, to be taken over by a replay of the same candidates."""
        cdef int i
        self.rescale()
        found = [self.seconds, self.requests, self.spent, self.lived]
        for i in range(self.count):
            found += (self.candidates[i].pool.late, self.candidates[i].pool.paid)
        for i in range(COUNT):
            found += (self.references[i].late, self.references[i].paid)
        return found

    def take_over(self, kept: list[float]) -> None:
        """Goes on from what `kept` gave. Raises ValueError if it is of other candidates."""
        cdef int i
        if len(kept) != 4 + 2 * (self.count + COUNT) or not all(0.0 <= value < INFINITY for value in kept):
            raise ValueError("the memory is of other candidates")
        self.weight = 1.0
        self.seconds, self.requests, self.spent, self.lived = kept[:4]
        for i in range(self.count):
            self.candidates[i].pool.late, self.candidates[i].pool.paid = kept[4 + 2 * i], kept[5 + 2 * i]
        for i in range(COUNT):
            self.references[i].late = kept[4 + 2 * (self.count + i)]
            self.references[i].paid = kept[5 + 2 * (self.count + i)]

    def best(self) -> int:
        """The reference with the fewest late requests. Of those with about as few it is the cheapest."""
        cdef double least = INFINITY
        cdef int i
        cdef int best = -1
        for i in range(COUNT):
            least = fmin(least, self.references[i].late)
        least = ABOUT * least + NOTHING * self.requests
        for i in range(COUNT):
            if self.references[i].late <= least and (
                best < 0 or self.references[i].paid < self.references[best].paid
            ):
                best = i
        return best

    def choose(
        self, int present, double budget, double horizon, double stress, double tie, double doubt, double prior,
        double price,
    ) -> int:
        """The candidate to follow: the one with the fewest late requests, where those of the next lower headrooms count
        as well, less and less: they are what more load would do.

        Beyond the budget each replica second counts like `price` of the requests that it can serve. The budget is the
        part `budget` of what the best reference has cost, and what was saved of it, or less what was spent too much,
        over the next `horizon` of the replay's own length. A candidate that is cheaper and has late requests more by
        less than the part `tie` of the reference's is as good; so is `present`. In the first `doubt` s there is less to
        be saved by that, since a few minutes say little of what is to come and cost little.
        """
        cdef tg_pool *reference = self.references[self.best()]
        cdef double limit = budget * reference.paid
        cdef double least = INFINITY
        cdef double late = 0.0
        cdef double cost
        cdef double present_cost = INFINITY
        cdef double allowed
        cdef tg_pool *pool
        cdef int i
        cdef int chosen = -1
        # What was spent too much is not saved at any cost.
        limit *= fmin(fmax(1.0 + (1.0 - self.spent / limit) / fmax(horizon, 600.0 / self.seconds), 0.9), 1.2)
        price *= self.shape.rate
        tie *= self.seconds / (self.seconds + doubt)
        for i in range(self.count):
            late = self.feared(i, prior) + (stress * late if i % self.rungs else 0.0)
            cost = late + price * fmax(self.candidates[i].pool.paid - limit, 0.0)
            if not self.eligible(i):
                continue
            least = fmin(least, cost)
            if i == present:
                present_cost = cost
        allowed = least + tie * reference.late
        for i in range(self.count):
            late = self.feared(i, prior) + (stress * late if i % self.rungs else 0.0)
            pool = &self.candidates[i].pool
            if self.eligible(i) and late + price * fmax(pool.paid - limit, 0.0) <= allowed and (
                chosen < 0 or pool.paid < self.candidates[chosen].pool.paid
            ):
                chosen = i
        if present_cost <= allowed + tie * reference.late:
            if self.candidates[present].pool.paid <= 1.05 * self.candidates[chosen].pool.paid:
                return present
        return present if chosen < 0 else chosen

    cdef inline bint eligible(self, int i) noexcept nogil:
        """Whether there was time to see what candidate `i` is worth: half of its hold, and for less than what comes an
        hour."""
        cdef tg_candidate *c = &self.candidates[i]
        return self.lived >= 0.5 * self.hold[c.hold] and (c.headroom >= 1.0 or self.lived >= BOLD)

    cdef inline double feared(self, int i, double prior) noexcept nogil:
        """The late requests of candidate `i`, and what is feared of it without evidence: `prior` s of the mean load
        without any headroom, fewer with more of it and with a longer hold."""
        cdef tg_candidate *c = &self.candidates[i]
        return c.pool.late + prior * self.requests / (
            self.seconds * c.headroom * c.headroom * (1.0 + 0.3 * sqrt(self.hold[c.hold] / 60.0)))

    def wanted(self, int i, double backlog, int ready, int before) -> int:
        """Replicas that candidate `i` asks for now, with the pool's own backlog (requests) and ready replicas, where
        `before` were asked for."""
        cdef double load = self.asked(&self.candidates[i], backlog, ready) / self.shape.rate
        if ceil(load - EPSILON) < before:
            return <int>fmin(slack(load), before)
        return <int>fmin(ceil(load - EPSILON), self.shape.maximum)

    cdef inline double asked(self, const tg_candidate *c, double backlog, int ready) noexcept nogil:
        """Requests/s that candidate `c` has replicas for: those that come, and the backlog there will be when replicas
        that are ordered now serve."""
        cdef double rate = fmax(c.headroom * self.peaks[c.predictor * self.holds + c.hold].highest,
                                LEAST_HEADROOM * self.mean[1])
        cdef double grows = fmax(self.mean[c.predictor] - ready * self.shape.rate, 0.0) * self.start
        return rate + (backlog + grows) / fmax(c.drain * self.start, self.span)


cdef void *taken(size_t count, size_t size) except NULL:
    """Zeroed memory; one unit at least, so that NULL is a failure alone."""
    cdef void *memory = calloc(count if count else 1, size)
    if memory == NULL:
        raise MemoryError("a replay")
    return memory
