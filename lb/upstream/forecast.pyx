"""When the turn of those who wait will come: see forecast.pxd.

So many before it, served at places / mean service time (lb.upstream.service_time).
"""

from libc.math cimport sqrt
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from lb.core.atomics cimport tg_store64_relaxed
from lb.core.segment cimport TG_QUEUE_MARKS, TG_S_QUEUE_BUSY, TG_S_QUEUE_MARKS, tg_get
from lb.upstream.line cimport line_rank, place_at
from lb.upstream.queue cimport PoolQueue
from lb.upstream.queue_peers cimport bars_of

cdef enum:
    COUNT_NS = 20_000_000             # for how long a count of places is good
    PRIORITY_SHIFT = 60               # of a key

# Where in its line a worker publishes who stands there, beside its last one. Dense at the front, far apart behind, so
# that what others make of it is right to the same factor everywhere.
cdef size_t[TG_QUEUE_MARKS - 1] MARKS = [0, 4, 16, 64, 256]


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
    """The same of those who wait in this worker."""
    cdef size_t count = 0, at
    cdef size_t before = line_rank(&queue.line, key, UINT64_MAX)
    if not queue.line.models & ~rivals:
        return before
    for at in range(before):
        if not place_at(&queue.line, at).wanted or place_at(&queue.line, at).wanted & rivals:
            count += 1
    return count


cdef double ahead_of(PoolQueue queue, uint64_t key, uint64_t rivals) noexcept:
    cdef size_t before = rivals_before(queue, key, rivals), here
    cdef double there = 0.0
    cdef int worker
    for worker in range(queue.workers):
        if worker != queue.own and queue.waiting(worker) and bars_of(queue, worker, key) & rivals:
            there += before_in(queue, worker, key)
    here = line_rank(&queue.line, key, UINT64_MAX)
    if here:
        there *= <double>before / <double>here      # as many of them as here want what it wants
    return <double>before + there


cdef double before_in(PoolQueue queue, int worker, uint64_t key) noexcept:
    """How many of another worker's line come before `key`, going by its marks. Those between two marks of the same
    priority are taken to be spread evenly; where a mark is of another priority nothing is known but the ranks."""
    cdef uint64_t *marks = &queue.segment.series_of(worker, <uint32_t>queue.series)[TG_S_QUEUE_MARKS]
    cdef uint64_t count = queue.waiting(worker)
    cdef uint64_t low_key = tg_get(&marks[0]), high_key = tg_get(&marks[TG_QUEUE_MARKS - 1]), mark
    cdef double low = 1.0, high = <double>count - 1
    cdef int i
    if count == 0 or key <= low_key:
        return 0.0
    if key > high_key:
        return <double>count
    for i in range(1, <int>TG_QUEUE_MARKS - 1):
        mark = tg_get(&marks[i])
        if mark >= key:
            if mark < high_key:
                high, high_key = <double>MARKS[i], mark
            break
        low, low_key = <double>MARKS[i] + 1, mark
    if high <= low:
        return low
    if low_key >> PRIORITY_SHIFT != high_key >> PRIORITY_SHIFT:
        return sqrt(low * high)
    return low + (high - low) * <double>(key - low_key) / <double>(high_key - low_key)


cdef void publish_marks(PoolQueue queue) noexcept:
    cdef uint64_t *marks = &queue.words[TG_S_QUEUE_MARKS]
    cdef uint64_t key
    cdef size_t at
    for at in range(<size_t>TG_QUEUE_MARKS - 1):
        key = place_at(&queue.line, MARKS[at]).key if MARKS[at] < queue.line.count else UINT64_MAX
        tg_store64_relaxed(&marks[at], key)
    tg_store64_relaxed(&marks[TG_QUEUE_MARKS - 1], place_at(&queue.line, queue.line.count - 1).key)


cdef double wait_of(PoolQueue queue, uint64_t key, uint64_t wanted, uint64_t now) noexcept:
    cdef uint64_t rivals = UINT64_MAX
    cdef uint64_t places = places_of(queue, wanted, &rivals) if wanted else count_places(queue, now)
    if places == 0:
        return 0.0
    return (ahead_of(queue, key, rivals) + 1) * queue.service.known(now) / <double>places


cdef uint64_t busy_since(PoolQueue queue) noexcept:
    """While somebody waits: somebody has at every moment since, in one worker or another."""
    cdef uint64_t since = 0
    cdef int worker
    for worker in range(queue.workers):
        since = max(since, tg_get(&queue.segment.series_of(worker, <uint32_t>queue.series)[TG_S_QUEUE_BUSY]))
    return since


cdef bint overloaded(PoolQueue queue, uint64_t now) noexcept:
    return now > busy_since(queue) + queue.patience
