"""The result cache, called from Python."""

from libc.stdint cimport uint64_t
from libc.string cimport memset
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


def put_bytes(ResultCache cache not None, bytes key, bytes data, now, ttl_ns):
    """Keep `data` for `ttl_ns`: 1 stored, 0 rejected (too large, busy, no time), -1 the shard was damaged."""
    cache.check(key)
    return cache.put(<const unsigned char *> <const char *> key, <const char *> data, len(data), now, ttl_ns)


def lock_owner(ResultCache cache not None, bytes key):
    """Process number of who is changing the shard of `key`, 0 = nobody."""
    cache.check(key)
    return owner_pid(tg_load64_relaxed(&cache.shard(<const unsigned char *> <const char *> key).state.lock))
