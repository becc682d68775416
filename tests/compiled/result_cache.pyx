"""The result cache, called from Python."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from lb.cache.layout cimport tg_fill
from lb.cache.owner cimport owner_pid
from lb.cache.store cimport ResultCache
from lb.shared.atomics cimport tg_load64_relaxed
from lb.net.buffer cimport tg_buffer, tg_buffer_free, tg_buffer_head


def get_entry(ResultCache cache not None, bytes key, now):
    """`(value, age_ns, ttl_ns)` of the fresh object under `key`, or None."""
    cdef tg_buffer into
    cdef uint64_t age = 0
    cdef uint64_t ttl = 0
    memset(&into, 0, sizeof(into))
    cache.check(key)
    cdef Py_ssize_t size = cache.get(<const unsigned char *> <const char *> key, now, &into, &age, &ttl)
    try:
        # An object of no bytes needs no memory.
        return None if size < 0 else (tg_buffer_head(&into)[:size] if size else b"", age, ttl)
    finally:
        tg_buffer_free(&into)


def get_bytes(ResultCache cache not None, bytes key, now):
    """The fresh object under `key`, or None."""
    entry = get_entry(cache, key, now)
    return None if entry is None else entry[0]


cdef class Fill:
    """The making of an answer, from before the backend is asked: the generations of its tags."""

    cdef tg_fill fill

    def __init__(self, ResultCache cache not None, *tags):
        cdef uint32_t slots[64]
        for i, tag in enumerate(tags):
            slots[i] = cache.slot(<const char *> <bytes> tag, len(tag))
        self.fits = cache.begin(&self.fill, slots, len(tags)) == 0

    cdef readonly bint fits


def slot_of(ResultCache cache not None, bytes tag):
    return cache.slot(<const char *> tag, len(tag))


def put_bytes(ResultCache cache not None, bytes key, bytes data, now, ttl_ns, Fill fill=None):
    """Keep `data` for `ttl_ns`: 1 stored, 0 rejected (too large, busy, no time, purged), -1 the shard was damaged."""
    cdef tg_fill none
    memset(&none, 0, sizeof(none))
    cache.check(key)
    return cache.put(<const unsigned char *> <const char *> key, <const char *> data, len(data), now, ttl_ns,
                     &none if fill is None else &fill.fill)


def lock_owner(ResultCache cache not None, bytes key):
    """Process number of who is changing the shard of `key`, 0 = nobody."""
    cache.check(key)
    return owner_pid(tg_load64_relaxed(&cache.shard(<const unsigned char *> <const char *> key).state.lock))
