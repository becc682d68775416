"""The result cache, called from Python."""

from libc.stdint cimport uint32_t
from libc.string cimport memset
from lb.cache.freshness cimport refresh_early
from lb.cache.layout cimport TG_AWAITED, TG_LAST_RESORT, TG_STALE, tg_fill, tg_found
from lb.cache.owner cimport owner_pid
from lb.cache.store cimport ResultCache
from lb.shared.atomics cimport tg_load64_relaxed
from lb.net.buffer cimport tg_buffer, tg_buffer_free, tg_buffer_head


AWAITED = TG_AWAITED
STATES = {TG_STALE: "stale", TG_LAST_RESORT: "last resort"}


cdef read(ResultCache cache, bytes key, now, bint last_resort, tg_found *found):
    cdef tg_buffer into
    memset(&into, 0, sizeof(into))
    cache.check(key)
    cdef Py_ssize_t size = cache.get(<const unsigned char *> <const char *> key, now, last_resort, &into, found)
    try:
        # An object of no bytes needs no memory.
        return None if size < 0 else tg_buffer_head(&into)[:size] if size else b""
    finally:
        tg_buffer_free(&into)


def find(ResultCache cache not None, bytes key, now, bint last_resort=False):
    """`(value, facts)` of the object under `key`, or None; `facts` by the names of tg_found."""
    cdef tg_found found
    value = read(cache, key, now, last_resort, &found)
    return None if value is None else (value, {
        "state": STATES.get(found.state, "fresh"), "age": found.age_ns, "fresh": found.fresh_ns,
        "stale": found.stale_ns, "error": found.error_ns, "cost_us": found.cost_us, "flags": found.flags})


def get_entry(ResultCache cache not None, bytes key, now):
    """`(value, age_ns, ttl_ns)` of the object under `key`, or None."""
    cdef tg_found found
    value = read(cache, key, now, False, &found)
    return None if value is None else (value, found.age_ns, found.fresh_ns)


def xfetch(fresh_ns, cost_us, double random):
    return bool(refresh_early(fresh_ns, cost_us, random))


def get_bytes(ResultCache cache not None, bytes key, now):
    """The object under `key`, or None."""
    cdef tg_found found
    return read(cache, key, now, False, &found)


cdef class Fill:
    """The making of an answer, from before the backend is asked: the generations of its tags."""

    cdef tg_fill fill

    def __init__(self, ResultCache cache not None, *tags):
        cdef uint32_t slots[64]
        for i, tag in enumerate(tags):
            slots[i] = cache.slot(<const char *> <bytes> tag, len(tag))
        self.fits = cache.begin(&self.fill, slots, len(tags)) == 0

    cdef readonly bint fits

    def behind(self, ResultCache cache not None):
        return cache.tier_is_behind(&self.fill)


def slot_of(ResultCache cache not None, bytes tag):
    return cache.slot(<const char *> tag, len(tag))


def put_bytes(ResultCache cache not None, bytes key, bytes data, now, ttl_ns, Fill fill=None, *, stale_ns=0, error_ns=0,
              cost_us=0, flags=0):
    """Keep `data` for `ttl_ns`: 1 stored, 0 rejected (too large, busy, no time, purged), -1 the shard was damaged."""
    cdef tg_fill own
    if fill is None:
        memset(&own, 0, sizeof(own))
    else:
        own = fill.fill
    own.fresh_ns, own.stale_ns, own.error_ns, own.cost_us, own.flags = ttl_ns, stale_ns, error_ns, cost_us, flags
    cache.check(key)
    return cache.put(<const unsigned char *> <const char *> key, <const char *> data, len(data), now, &own)


def lock_owner(ResultCache cache not None, bytes key):
    """Process number of who is changing the shard of `key`, 0 = nobody."""
    cache.check(key)
    return owner_pid(tg_load64_relaxed(&cache.shard(<const unsigned char *> <const char *> key).state.lock))


def first_shard(ResultCache cache not None):
    """Where the first shard begins in the segment's file."""
    return <char *> cache.shards[0].state - cache.segment.base


def claim(ResultCache cache not None, bytes key, now, lease):
    cache.check(key)
    return bool(cache.claim(<const unsigned char *> <const char *> key, now, lease))


def settle(ResultCache cache not None, bytes key, now, pause, bint failed):
    cache.check(key)
    cache.settle(<const unsigned char *> <const char *> key, now, pause, failed)


def failing(ResultCache cache not None, bytes key):
    cache.check(key)
    return bool(cache.failing(<const unsigned char *> <const char *> key))
