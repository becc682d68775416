"""What the queues of a pool in all workers tell each other: see queue_peers.pxd."""

from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from lb.core.atomics cimport tg_store64_relaxed
from lb.core.segment cimport (
    TG_QUEUE_FIRSTS, TG_QUEUE_MARKS, TG_S_QUEUE_FIRSTS, TG_S_QUEUE_HEAD, TG_S_QUEUE_MARKS, tg_get,
)
from lb.upstream.forecast cimport publish_marks
from lb.upstream.line cimport place_at, tg_place
from lb.upstream.queue cimport BARS_ALL, PoolQueue, Waiter

cdef enum:
    MODEL_BITS = 6                    # of a word in the segment that says where the first for a model stands


cdef extern from *:
    int __builtin_ctzll(unsigned long long x) nogil


cdef uint64_t MODEL_MASK = (<uint64_t>1 << MODEL_BITS) - 1


cdef uint64_t last_of(PoolQueue queue, int worker) noexcept:
    if worker == queue.own:
        return place_at(&queue.line, queue.line.count - 1).key if queue.line.count else 0
    if not queue.waiting(worker):
        return 0
    return tg_get(&queue.segment.series_of(worker, <uint32_t>queue.series)[TG_S_QUEUE_MARKS + TG_QUEUE_MARKS - 1])


cdef int last_of_all(PoolQueue queue) noexcept:
    cdef int worker, found = 0
    for worker in range(1, queue.workers):
        if last_of(queue, worker) > last_of(queue, found):
            found = worker
    return found


cdef uint64_t bars_of(PoolQueue queue, int worker, uint64_t key) noexcept:
    cdef uint64_t *words = queue.segment.series_of(worker, <uint32_t>queue.series)
    cdef uint64_t found = 0, first
    cdef int i
    if tg_get(&words[TG_S_QUEUE_HEAD]) < key:
        return BARS_ALL
    for i in range(<int>TG_QUEUE_FIRSTS):
        first = tg_get(&words[TG_S_QUEUE_FIRSTS + i])
        if first == 0:
            break
        if first >> MODEL_BITS < key >> MODEL_BITS:
            found |= <uint64_t>1 << (first & MODEL_MASK)
    return found


cdef uint64_t bars_before(PoolQueue queue, uint64_t key, uint64_t avoided) noexcept:
    cdef uint64_t bars, head, best = key
    cdef int worker, first = -1
    for worker in range(queue.workers):
        if worker != queue.own and queue.waiting(worker):
            head = tg_get(&queue.segment.series_of(worker, <uint32_t>queue.series)[TG_S_QUEUE_HEAD])
            if head < best:
                best, first = head, worker
    if first >= 0:
        queue.bells.ring(first)
        return BARS_ALL
    for worker in range(queue.workers):
        if worker != queue.own and queue.waiting(worker):
            bars = bars_of(queue, worker, key)
            if bars & ~avoided:
                avoided |= bars
                queue.bells.ring(worker)
    return avoided


cdef void publish_line(PoolQueue queue) noexcept:
    cdef uint64_t *firsts = &queue.words[TG_S_QUEUE_FIRSTS]
    cdef uint64_t anybody = UINT64_MAX, told = 0
    cdef int count = 0
    cdef tg_place *one
    cdef size_t at
    if queue.line.count == 0:
        return
    for at in range(min(queue.line.count, <size_t>LOOK_AHEAD)):
        if told == queue.line.models and queue.line.choosy + queue.line.tied == queue.line.count:
            break
        one = place_at(&queue.line, at)
        if one.wanted & told:
            continue
        if one.wanted and count < <int>TG_QUEUE_FIRSTS:
            tg_store64_relaxed(&firsts[count], one.key & ~MODEL_MASK | <uint64_t>__builtin_ctzll(one.wanted))
            told |= one.wanted
            count += 1
        elif one.wanted or not (<Waiter>one.waiter).tied:
            anybody = one.key             # or one model too many to be told apart
            break
    if count < <int>TG_QUEUE_FIRSTS:
        tg_store64_relaxed(&firsts[count], 0)
    tg_store64_relaxed(&queue.words[TG_S_QUEUE_HEAD], anybody)
    publish_marks(queue)
