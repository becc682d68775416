"""The load curve of an endpoint: how long a request takes there by how many it finds, learned from answers.

By Little's law an endpoint that has n requests, each of which takes L(n), answers n / L(n) in a second. Whatever the
endpoint is, L(n) / n says how it bears load: a server that does one request after another has the same L(n) / n at
every n, one that does k at a time has it from k on, one that batches approaches it. So nothing has to be known of the
kind of an endpoint: the curve is kept as L(n) / n, its time for each request, by ranges of n.

The number from which on throughput no longer grows is the knee. More than that in flight only wait at the endpoint,
where nobody can put them in order, or send them elsewhere when it stalls (Kleinrock, "Power and deterministic rules of
thumb for probabilistic problems in computer communications", 1979, on where to operate; the smallest load of the
greatest throughput is what BBR's bandwidth-delay product is to a connection: Cardwell et al., "BBR:
congestion-based congestion control", ACM Queue 14(5), 2016). Throughput cannot fall as the load grows as far as a limit
is concerned, so noise is taken out by isotonic regression: neighbours out of order are pooled (Ayer et al., "An
empirical distribution function for sampling with incomplete information", 1955).

The words are of the endpoint's record in the shared segment. All workers write them without a lock, and may lose each
other's samples.
"""

from libc.math cimport sqrt
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from lb.shared.atomics cimport tg_load64_relaxed, tg_store64_relaxed
from lb.shared.segment_layout cimport TG_CURVE_LIMIT, TG_CURVE_RANGES, tg_endpoint

cdef enum:
    EXACT = 4                         # loads up to here have a range each, then there are two for each doubling
    MOST_SAMPLES = 48                 # that a mean is of: from then on a new one weighs as much as one of them
    ENOUGH = 16                       # samples that a range needs to count for the knee
    DUE = 16                          # answers between two looks for the knee
    TICK_SHIFT = 27                   # a tick of a word's clock is 2**27 ns, 0.13 s; it comes round after 26 days
    COUNT_BITS = 8

cdef uint64_t TICK_MASK = 2**24 - 1
cdef uint64_t DUE_NS = 50_000_000     # or so long, for endpoints that answer seldom
# Where answers are closer than this, one of SAMPLED is learned from, once LEARNED were.
cdef double OFTEN_NS = 200_000
cdef enum:
    SAMPLED = 8
    LEARNED = 256
# How long a range is remembered: so long to twice as long, since all endpoints of a pool would be looked at anew at one
# moment else. And in times that a request takes, where that is longer.
cdef double MEMORY_NS = 20e9
cdef double MEMORY_REQUESTS = 200
# Samples beyond so many means count for as much: a stall must not be remembered as the endpoint's speed.
cdef double OUTLIER = 4.0
cdef double GAP_WEIGHT = 1.0 / 32
cdef double SPREAD_WEIGHT = 1.0 / 64
# Throughput within so much of the greatest is as good as that, and as much again for so many standard errors.
cdef double SAME = 0.1
cdef double DOUBT = 0.5
# Latency by so much above that with few requests shows that they wait for each other.
cdef double WAITING = 1.25
# Time for which requests may stand at an endpoint whatever the knee says: less is not worth a queue here.
cdef double LEAST_STANDING_NS = 5e6
# Part of the time that requests have which may be spent standing at an endpoint.
cdef double STANDING = 1.0 / 8
# Part of the time that requests have which an endpoint may take, and how many times what a request takes alone.
cdef double TAKEN = 1.0 / 4
cdef double ALONE = 1.5
# Of what has not been seen yet, so many times what has been seen, and so many, may be tried at once.
cdef enum:
    AHEAD = 4
    AHEAD_MORE = 8
cdef uint64_t SILENCE_NS = 200_000_000
cdef uint64_t HALVE_NS = 100_000_000
cdef uint64_t PROVISIONAL_NS = 100_000_000
cdef uint64_t COLD_NS = 60_000_000_000
cdef uint64_t PROVISIONAL = 2**31
cdef enum:
    LIMIT_TICK_SHIFT = 24             # of the limit's clock: 17 ms


# A word of the curve: the time for each request as a float, how many samples it is of, and when it was last written.

cdef struct tg_point:
    double each_ns
    int samples
    double age_ns
    double memory_ns


cdef inline float to_float(uint32_t bits) noexcept nogil:
    cdef float value
    memcpy(&value, &bits, sizeof(value))
    return value


cdef inline uint32_t to_bits(double number) noexcept nogil:
    cdef float value = <float>number
    cdef uint32_t bits
    memcpy(&bits, &value, sizeof(bits))
    return bits


cdef inline bint point_at(const tg_endpoint *record, int at, uint64_t now, tg_point *point) noexcept nogil:
    cdef uint64_t word = tg_load64_relaxed(&record.curve_words[at])
    cdef uint64_t age
    if word == 0:
        return False
    point.each_ns = to_float(<uint32_t>(word >> 32))
    point.samples = <int>(word & ((1 << COUNT_BITS) - 1))
    # The last bits of a mean are as good as random.
    point.memory_ns = MEMORY_NS * (1.0 + ((word >> 32) & 0xff) / 256.0)
    age = ((now >> TICK_SHIFT) - (word >> COUNT_BITS)) & TICK_MASK
    # Another worker may have been later than this event.
    point.age_ns = <double>(age << TICK_SHIFT) if age <= TICK_MASK >> 1 else 0.0
    return True


cdef inline bint is_old(const tg_point *point) noexcept nogil:
    return point.age_ns > max(point.memory_ns, MEMORY_REQUESTS * point.each_ns)


cdef inline int range_of(double load) noexcept nogil:
    cdef int at = EXACT, rest
    if load < EXACT + 0.5:
        return max(<int>(load + 0.5), 1) - 1
    rest = <int>min(load + 0.5, 1e6) - 1
    while rest >= 8:
        rest >>= 1
        at += 2
    return min(at + (1 if rest >= 6 else 0), <int>TG_CURVE_RANGES - 1)


cdef inline int lowest_of(int at) noexcept nogil:
    if at < EXACT:
        return at + 1
    return ((4 + 2 * (at & 1)) << ((at - EXACT) // 2)) + 1


cdef inline int highest_of(int at) noexcept nogil:
    return lowest_of(at + 1) - 1


cdef void curve_learn(tg_endpoint *record, double load, double latency_ns, double gap_ns, uint64_t now) noexcept nogil:
    cdef int at = range_of(load)
    cdef double each = max(latency_ns / max(load, 0.01), 1.0), off, spread
    cdef tg_point point
    cdef uint64_t word = tg_load64_relaxed(&record.curve_spread)
    spread = to_float(<uint32_t>(word >> 32))
    if point_at(record, at, now, &point):
        off = min(each / point.each_ns, OUTLIER) - 1.0
        spread += (off * off - spread) * SPREAD_WEIGHT
        each = min(each, point.each_ns * OUTLIER)
        if is_old(&point):
            point.samples = min(point.samples, 2)
        point.samples = min(point.samples + 1, <int>MOST_SAMPLES)
        each = point.each_ns + (each - point.each_ns) / point.samples
    else:
        point.samples = 1
    tg_store64_relaxed(&record.curve_words[at], <uint64_t>to_bits(each) << 32
                       | ((now >> TICK_SHIFT) & TICK_MASK) << COUNT_BITS | <uint64_t>point.samples)
    tg_store64_relaxed(&record.curve_spread, <uint64_t>to_bits(spread) << 32 | <uint64_t><uint32_t>(word + 1))
    learn_gap(record, gap_ns)


cdef void learn_gap(tg_endpoint *record, double gap_ns) noexcept nogil:
    cdef uint64_t word = tg_load64_relaxed(&record.curve_gaps)
    cdef double mean = to_float(<uint32_t>(word >> 32)), square = to_float(<uint32_t>word)
    if word == 0:
        mean, square = gap_ns, gap_ns * gap_ns
    else:
        gap_ns = min(gap_ns, 64 * mean + 1e6)
        mean += (gap_ns - mean) * GAP_WEIGHT
        square += (gap_ns * gap_ns - square) * GAP_WEIGHT
    tg_store64_relaxed(&record.curve_gaps, <uint64_t>to_bits(max(mean, 1.0)) << 32 | <uint64_t>to_bits(square))


cdef bint curve_rests(const tg_endpoint *record, uint32_t draw) noexcept nogil:
    return (draw % SAMPLED != 0
            and to_float(<uint32_t>(tg_load64_relaxed(&record.curve_gaps) >> 32)) < OFTEN_NS
            and <uint32_t>tg_load64_relaxed(&record.curve_spread) > LEARNED)


cdef double curve_gap(const tg_endpoint *record) noexcept nogil:
    cdef uint64_t word = tg_load64_relaxed(&record.curve_gaps)
    cdef double mean = to_float(<uint32_t>(word >> 32))
    return <double>to_float(<uint32_t>word) / mean if mean > 0 else 0.0


cdef inline double middle_of(int at) noexcept nogil:
    return (lowest_of(at) + highest_of(at)) / 2.0


cdef inline double between(const tg_endpoint *record, int at, double each, double load) noexcept nogil:
    """The time for each request in the range `at`, where it is `each` in the middle, on the line to the next range on
    the side of `load`: else a latency would grow within a range, and fall from one range to the next."""
    cdef double middle = middle_of(at)
    cdef int beside = at + 1 if load > middle else at - 1
    cdef uint64_t word
    if at < EXACT or beside >= <int>TG_CURVE_RANGES - 1:
        return each
    word = tg_load64_relaxed(&record.curve_words[beside])
    if word == 0:
        return each
    return each + (to_float(<uint32_t>(word >> 32)) - each) * (load - middle) / (middle_of(beside) - middle)


cdef double curve_latency(const tg_endpoint *record, double load) noexcept nogil:
    """By the nearest range of which something is known. From below it is expected to do one request after another;
    from above, to be no faster with less than half."""
    cdef int at = range_of(load), off
    cdef uint64_t word = tg_load64_relaxed(&record.curve_words[at])
    if word:
        return between(record, at, to_float(<uint32_t>(word >> 32)), load) * load
    for off in range(1, <int>TG_CURVE_RANGES):
        if at >= off:
            word = tg_load64_relaxed(&record.curve_words[at - off])
            if word:
                return to_float(<uint32_t>(word >> 32)) * load
        if at + off < <int>TG_CURVE_RANGES:
            word = tg_load64_relaxed(&record.curve_words[at + off])
            if word:
                return to_float(<uint32_t>(word >> 32)) * max(load, lowest_of(at + off) * 0.5)
    return 0.0


cdef double curve_each(const tg_endpoint *record, double load) noexcept nogil:
    cdef int at = range_of(load), off
    cdef uint64_t word = tg_load64_relaxed(&record.curve_words[at])
    for off in range(1, <int>TG_CURVE_RANGES):
        if word:
            break
        if at >= off:
            word = tg_load64_relaxed(&record.curve_words[at - off])
        if word == 0 and at + off < <int>TG_CURVE_RANGES:
            word = tg_load64_relaxed(&record.curve_words[at + off])
    return to_float(<uint32_t>(word >> 32))


cdef uint32_t curve_answers(const tg_endpoint *record) noexcept nogil:
    return <uint32_t>tg_load64_relaxed(&record.curve_spread)


# The knee.

cdef struct tg_block:
    # Ranges that are taken for equal.
    double each_ns
    double weight
    int first
    int last


cdef int gather(const tg_endpoint *record, uint64_t now, tg_block *blocks, int *lowest, int *highest) noexcept nogil:
    """The ranges that count, those pooled that are out of order: the time for each request must not grow with load."""
    cdef tg_point point
    cdef tg_block *last
    cdef int at, count = 0
    lowest[0] = highest[0] = -1
    for at in range(<int>TG_CURVE_RANGES):
        if not point_at(record, at, now, &point) or point.samples < ENOUGH or is_old(&point):
            continue
        if lowest[0] < 0:
            lowest[0] = at
        highest[0] = at
        blocks[count].each_ns, blocks[count].weight = point.each_ns, point.samples
        blocks[count].first = blocks[count].last = at
        count += 1
        while count > 1 and blocks[count - 2].each_ns <= blocks[count - 1].each_ns:
            last = &blocks[count - 1]
            blocks[count - 2].each_ns = (
                (blocks[count - 2].each_ns * blocks[count - 2].weight + last.each_ns * last.weight)
                / (blocks[count - 2].weight + last.weight))
            blocks[count - 2].weight += last.weight
            blocks[count - 2].last = last.last
            count -= 1
    return count


cdef int with_room(int knee, double each_ns, double allowed_ns) noexcept nogil:
    """So many in flight that the endpoint always has its next request at hand: some more than the knee, as many again
    at most, and no more than may stand there."""
    cdef double standing = max(knee * each_ns, LEAST_STANDING_NS)
    if allowed_ns > 0:
        standing = min(standing, max(allowed_ns * STANDING, LEAST_STANDING_NS))
    return knee + max(max(1, knee // 10), <int>min(standing / each_ns, 1e6))


cdef int limit_by(int knee, tg_block *top, int lowest, int highest, double first_ns,
                  double allowed_ns) noexcept nogil:
    """The limit if `knee` is the range from which on throughput does not grow."""
    if knee < highest or (lowest == highest and knee > 0):
        return with_room(highest_of(knee), top.each_ns, allowed_ns)
    # It grows as far as has been seen.
    if lowest == highest or top.each_ns * lowest_of(highest) < WAITING * first_ns:
        return AHEAD * highest_of(highest) + AHEAD_MORE
    return with_room(highest_of(min(highest + 1, <int>TG_CURVE_RANGES - 2)), top.each_ns, allowed_ns)


cdef tg_knee curve_knee(
    const tg_endpoint *record, double allowed_ns, bint pressed, int running, uint64_t now
) noexcept nogil:
    cdef tg_block[TG_CURVE_RANGES] blocks
    cdef tg_knee found
    cdef int lowest = -1, highest = -1, likely = -1, surely = -1, below = 0, at, least, most, tried
    cdef int count = gather(record, now, blocks, &lowest, &highest)
    cdef int limit = <int>(tg_load64_relaxed(&record.curve_limit) & TG_CURVE_LIMIT)
    cdef double spread, doubt, first_ns, throughput
    cdef tg_block *top
    found.kind, found.limit, found.knee, found.rate = CURVE_FREE, limit, 0, 0.0
    if count == 0:
        return found
    top = &blocks[count - 1]
    spread = sqrt(to_float(<uint32_t>(tg_load64_relaxed(&record.curve_spread) >> 32)))
    for at in range(count):
        throughput = top.each_ns / blocks[at].each_ns
        doubt = DOUBT * spread * sqrt(1.0 / blocks[at].weight + 1.0 / top.weight)
        if surely < 0 and throughput >= 1.0 - SAME - doubt:
            surely = blocks[at].first
            below = highest_of(blocks[at - 1].last) if at else 0
        if throughput >= 1.0 - SAME:
            likely = blocks[at].first
            break
    first_ns = blocks[0].each_ns * lowest_of(lowest)
    found.rate = 1.0 / top.each_ns
    found.knee = highest_of(surely)
    found.kind = CURVE_GROWS if likely == highest and (lowest != highest or highest == 0) else CURVE_KNEE
    least = limit_by(surely, top, lowest, highest, first_ns, allowed_ns)
    most = limit_by(likely, top, lowest, highest, first_ns, allowed_ns)
    if pressed and found.kind == CURVE_KNEE and lowest_of(surely) > below + 1:
        # With how few it would do as much lies between two numbers: one between them is tried.
        tried = max(<int>sqrt(<double>below * lowest_of(surely)), below + 1) if below else lowest_of(surely) // 3
        tried = max(tried, 1)
        if tried < lowest_of(surely):
            found.kind, found.limit = CURVE_LOOKS, tried
            return found
    # In between it stays as it is, so that it does not move with every sample.
    if limit == 0 or limit > max(least, most):
        found.limit = max(least, most)
    elif limit < min(least, most):
        found.limit = min(least, most)
    if found.kind == CURVE_GROWS and found.limit < running and limit == 0:
        found.limit = running
    if limit > found.limit and is_provisional(record) and not is_known(record, range_of(running), now):
        found.limit, found.kind = limit, CURVE_GROWS    # what is there now was not seen yet
    if allowed_ns > 0:
        found.limit = in_time(record, found.limit, allowed_ns)
    return found


cdef inline bint is_provisional(const tg_endpoint *record) noexcept nogil:
    return tg_load64_relaxed(&record.curve_limit) & PROVISIONAL != 0


cdef bint is_known(const tg_endpoint *record, int at, uint64_t now) noexcept nogil:
    cdef tg_point point
    return point_at(record, at, now, &point) and point.samples >= ENOUGH and not is_old(&point)


cdef int in_time(const tg_endpoint *record, int limit, double allowed_ns) noexcept nogil:
    """Of several load balancers that share an endpoint each gains by every request more that it sends, at the expense
    of the others, so that throughput alone would have no end. Time has: a request may take a part of what it has, or a
    half more than alone, where that is longer."""
    cdef double most = max(allowed_ns * TAKEN, ALONE * curve_each(record, 1.0))
    cdef double takes = curve_latency(record, limit)
    return max(<int>(limit * most / takes), 1) if takes > most else limit


cdef inline uint64_t since_limit(uint64_t word, uint64_t now) noexcept nogil:
    return <uint64_t><uint32_t>(<uint32_t>(now >> LIMIT_TICK_SHIFT) - <uint32_t>(word >> 32)) << LIMIT_TICK_SHIFT


cdef bint curve_due(const tg_endpoint *record, uint64_t now) noexcept nogil:
    cdef uint64_t since = since_limit(tg_load64_relaxed(&record.curve_limit), now)
    return since >= DUE_NS or (since > 0 and tg_load64_relaxed(&record.curve_spread) % DUE == 0)


cdef void curve_set_limit(tg_endpoint *record, int limit, bint provisional, uint64_t now) noexcept nogil:
    tg_store64_relaxed(&record.curve_limit, <uint64_t><uint32_t>(now >> LIMIT_TICK_SHIFT) << 32
                       | (PROVISIONAL if provisional else 0)
                       | <uint64_t>min(limit, <int>TG_CURVE_LIMIT))


cdef void curve_relax(tg_endpoint *record, uint64_t heard, uint64_t now) noexcept nogil:
    cdef uint64_t word = tg_load64_relaxed(&record.curve_limit)
    cdef uint64_t since = since_limit(word, now)
    cdef uint64_t silent = now - heard if now > heard else 0
    cdef int limit = <int>(word & TG_CURVE_LIMIT)
    cdef double patience = max(<double>SILENCE_NS, 8.0 * curve_latency(record, limit))
    if word & PROVISIONAL:
        patience = <double>PROVISIONAL_NS
    if limit and limit < 1 << 20 and <double>min(since, silent) > patience:
        curve_set_limit(record, 2 * limit, True, now)


cdef void curve_halve(tg_endpoint *record, int running, uint64_t now) noexcept nogil:
    cdef uint64_t word = tg_load64_relaxed(&record.curve_limit)
    cdef int limit = <int>(word & TG_CURVE_LIMIT)
    tg_store64_relaxed(&record.curve_warm_ns, now)
    if running > 1 and since_limit(word, now) >= HALVE_NS:
        curve_set_limit(record, max(min(running, limit if limit else running) // 2, 1), False, now)


cdef bint curve_warm(tg_endpoint *record, uint64_t heard, uint64_t sent, uint64_t now) noexcept nogil:
    cdef bint cold = heard == 0 or sent > heard + COLD_NS or heard < tg_load64_relaxed(&record.health_changed_ns)
    if cold:
        tg_store64_relaxed(&record.curve_warm_ns, now)
        return False
    return sent >= tg_load64_relaxed(&record.curve_warm_ns)
