"""The tables of the shared segment, called from Python as the data path calls them."""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from lb.shared.atomics cimport tg_load64_relaxed, tg_store_i32_relaxed
from lb.net.wakeups cimport Wakeups
from lb.shared.buckets cimport Buckets, make_limit, tg_limit, tg_verdict
from lb.shared.costs cimport Costs
from lb.shared.affinity_table cimport AFFINITY_NONE, AffinityTable
from lb.shared.segment cimport (
    TG_BUCKET_WAYS, TG_COST_ONE, TG_AFFINITY_WAYS, Segment, tg_bucket_set, tg_cost, tg_affinity_set,
)
from lb.shared.source_counts cimport SharedSources

from lb.errors import TidegateError


def health_changed(Segment segment not None, slot):
    """Monotonic ns of the last change of health; 0 = never."""
    return tg_load64_relaxed(&segment.record(slot).health_changed_ns)


def add_inflight(Segment segment not None, slot, amount):
    """Add to (or take from) this worker's in-flight word of an endpoint."""
    segment.record(slot)
    if segment.worker < 0:
        raise TidegateError("the master has no in-flight column")
    cdef int32_t *word = segment.inflight_word(slot)
    tg_store_i32_relaxed(word, word[0] + <int32_t> amount)


def add_outstanding(Segment segment not None, slot, cost):
    """Add to (or take from) this worker's outstanding word of an endpoint; `cost` is 1
    for an average request."""
    segment.record(slot)
    if segment.worker < 0:
        raise TidegateError("the master has no outstanding column")
    cdef int32_t *word = segment.outstanding_of(segment.worker, slot)
    tg_store_i32_relaxed(word, word[0] + <int32_t> (cost * <double> TG_COST_ONE))


def ring(Wakeups wakeups not None, int worker):
    """`ring`; IndexError when there is no such worker."""
    if not 0 <= worker < wakeups.count:
        raise IndexError(f"worker {worker} is not in 0 to {wakeups.count - 1}")
    wakeups.ring(worker)


def take_token(Buckets buckets not None, uint64_t key, interval, burst, uint64_t now):
    """`take`: (admitted, wait, remaining, reset)."""
    cdef tg_verdict verdict
    cdef tg_limit limit = make_limit(interval, burst)
    buckets.segment.check_open()
    if key == 0:
        raise ValueError("0 is no key")
    buckets.take(key, &limit, now, &verdict)
    return bool(verdict.admitted), verdict.wait, verdict.remaining, verdict.reset


def take_tokens(Buckets buckets not None, uint64_t key, interval, burst, uint64_t now, Py_ssize_t times):
    """`take` this often in a row without the interpreter in between: how many were admitted."""
    cdef tg_verdict verdict
    cdef tg_limit limit = make_limit(interval, burst)
    cdef Py_ssize_t admitted = 0, _turn
    buckets.segment.check_open()
    if key == 0:
        raise ValueError("0 is no key")
    with nogil:
        for _turn in range(times):
            buckets.take(key, &limit, now, &verdict)
            admitted += verdict.admitted
    return admitted


def count_buckets(Buckets buckets not None, uint64_t key):
    """How many buckets of its set have this key: never more than one once all processes are at rest."""
    cdef tg_bucket_set *group
    cdef int way, count = 0
    buckets.segment.check_open()
    group = buckets.sets + (key & buckets.mask)
    for way in range(<int> TG_BUCKET_WAYS):
        count += tg_load64_relaxed(&group.keys[way]) == key
    return count


cdef int check_entry(AffinityTable table, uint64_t key) except -1:
    table.segment.check_open()
    if key == 0:
        raise ValueError("0 is no key")
    return 0


def find_entry(AffinityTable table not None, uint64_t key, uint64_t now, uint64_t idle):
    """`find`: a slot, -1 for none, -2 when its endpoint is no more."""
    check_entry(table, key)
    return table.find(key, now, idle)


def put_entry(AffinityTable table not None, uint64_t key, uint32_t slot, uint64_t now, uint64_t idle):
    """`put`; IndexError for a slot that the segment does not have."""
    check_entry(table, key)
    table.segment.record(slot)
    table.put(key, slot, now, idle)


def drop_entry(AffinityTable table not None, uint64_t key):
    """`drop`."""
    check_entry(table, key)
    table.drop(key)


def count_entry(AffinityTable table not None, uint64_t key):
    """How many places have this key: never more than one once all processes are at rest."""
    cdef tg_affinity_set *group
    cdef int way, count = 0
    check_entry(table, key)
    group = table.sets + (key & table.mask)
    for way in range(<int> TG_AFFINITY_WAYS):
        count += tg_load64_relaxed(&group.keys[way]) == key
    return count


def put_find_drop(AffinityTable table not None, uint64_t key, uint32_t slot, uint64_t now, uint64_t idle,
                  Py_ssize_t times):
    """`put`, `find` and `drop` this often in turn without the interpreter in between: how often `find`
    gave another slot than this or none."""
    cdef Py_ssize_t wrong = 0, _turn
    cdef int found
    check_entry(table, key)
    table.segment.record(slot)
    with nogil:
        for _turn in range(times):
            table.put(key, slot, now, idle)
            found = table.find(key, now, idle)
            wrong += found != <int> slot and found != AFFINITY_NONE
            table.drop(key)
    return wrong


def hold_lock(SharedSources sources not None, uint64_t key):
    """Take the lock of the set of `key` and keep it, as a worker that dies there does."""
    sources.segment.check_open()
    return bool(sources.lock(sources.sets + (key & sources.mask)))


def learn_cost(Costs costs not None, bytes name, double busy_ns, double units, double weight, uint64_t now):
    """`take` and `learn`: whether there was a place for the name."""
    cdef tg_cost *record
    costs.segment.check_open()
    record = costs.take(costs.key_of(<const char *> name, <size_t> len(name)), <const char *> name,
                        <size_t> len(name), now)
    if record == NULL:
        return False
    costs.learn(record, busy_ns, units, weight)
    return True
