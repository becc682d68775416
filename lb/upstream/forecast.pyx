"""When the turn of those who wait will come: see forecast.pxd.

So many before it, served at places / mean service time.
"""

from libc.stdint cimport UINT64_MAX, uint64_t
from lb.upstream.line cimport line_rank, place_at
from lb.upstream.queue cimport PoolQueue

cdef enum:
    COUNT_NS = 20_000_000             # for how long a count of places is good
    SMOOTHING = 32                    # requests over which the mean service time is taken, roughly
    SECOND_NS = 1_000_000_000
    STALE = 4                         # service times without a word, after which the mean is as good as unknown


cdef void learn_service(PoolQueue queue, uint64_t now, uint64_t latency) noexcept:
    queue.learned_at = now
    if queue.service == 0:
        queue.service = <double>latency
    else:
        queue.service += (<double>latency - queue.service) / SMOOTHING


cdef double service_time(PoolQueue queue, uint64_t now) noexcept:
    if now > queue.learned_at + <uint64_t>(STALE * queue.service) + SECOND_NS:
        return 0.0
    return queue.service


cdef uint64_t count_places(PoolQueue queue, uint64_t now) noexcept:
    cdef int i
    if queue.counted_at == 0 or now > queue.counted_at + COUNT_NS:
        queue.counted_at = now
        queue.places = 0
        for i in range(queue.endpoints.size):
            if queue.groups is not None and not queue.groups.active(queue.endpoints.groups[i] // 2):
                continue                  # while the levels before it only have no room, nobody is sent there
            if queue.endpoints.standing_weight(i):
                queue.places += queue.endpoints.limits[i]
    return queue.places


cdef uint64_t places_of(PoolQueue queue, uint64_t wanted, uint64_t *rivals) noexcept:
    cdef uint64_t places = 0, unready
    cdef int i
    rivals[0] = 0
    for i in range(queue.endpoints.size):
        unready = queue.endpoints.unready(i)
        if not unready & wanted and queue.endpoints.standing_weight(i):
            places += queue.endpoints.limits[i]
            rivals[0] |= ~unready
    return places


cdef size_t rivals_before(PoolQueue queue, uint64_t key, uint64_t rivals) noexcept:
    cdef size_t count = 0, at
    cdef size_t before = line_rank(&queue.line, key, UINT64_MAX)
    if not queue.line.models & ~rivals:
        return before
    for at in range(before):
        if not place_at(&queue.line, at).wanted or place_at(&queue.line, at).wanted & rivals:
            count += 1
    return count


cdef double wait_of(PoolQueue queue, uint64_t key, uint64_t wanted, uint64_t now) noexcept:
    cdef uint64_t rivals = UINT64_MAX
    cdef uint64_t places = places_of(queue, wanted, &rivals) if wanted else count_places(queue, now)
    cdef uint64_t elsewhere = queue.waiting_elsewhere()
    cdef size_t before = rivals_before(queue, key, rivals)
    cdef double ahead = <double>before
    if places == 0:
        return 0.0
    if elsewhere:
        # Of those who wait elsewhere, as many as here will be before it.
        if queue.line.count:
            ahead += <double>elsewhere * <double>before / <double>queue.line.count
        elif queue.bars():
            ahead += <double>elsewhere
    return (ahead + 1) * service_time(queue, now) / <double>places


cdef bint overloaded(PoolQueue queue, uint64_t now) noexcept:
    return now > queue.busy_since + queue.patience
