"""Exchanges of a sequence: see bound.pxd."""

from libc.stdint cimport uint32_t, uint64_t
from lb.proxy.exchange cimport BOUND_LOST, Exchange
from lb.upstream.pool cimport Pool
from lb.upstream.sequences cimport SEQUENCE_HERE, SEQUENCE_LEAVING, SEQUENCE_LOST, SEQUENCE_UNKNOWN, where


cdef bint bind(Exchange exchange, uint64_t key, bint start, bint end) noexcept:
    cdef int index = -1
    cdef where found = exchange.pool.sequences.find(key, start, exchange.client.poller.now, &index)
    exchange.pinned = True
    exchange.pin = key
    exchange.sequence_start = start
    exchange.sequence_end = end
    exchange.tries_left = 0
    if found == SEQUENCE_HERE or found == SEQUENCE_LEAVING:
        if found == SEQUENCE_LEAVING:
            exchange.pool = exchange.pool.leaving
        exchange.kept_to = -1                 # a cookie has no say
        exchange.bound = index
        exchange.tied = True
    elif found == SEQUENCE_UNKNOWN:
        exchange.fail(409, b"sequence-unknown", "the sequence is not open: its first request must say sequence_start, "
                      "and it ends when it is idle for too long")
        return False
    elif found == SEQUENCE_LOST:
        exchange.fail_lost()
        return False
    return True


cdef void leave_sequence(Exchange exchange) noexcept:
    cdef bint well = exchange.succeeded()
    if (exchange.sequence_end and well
            or exchange.sequence_start and exchange.tries and not well and exchange.status != 499):
        exchange.pool.sequences.end(exchange.pin)
    elif exchange.tries:
        exchange.pool.sequences.touch(exchange.pin, exchange.client.poller.now)


cdef void rebind(Exchange exchange, Pool pool) noexcept:
    cdef Pool old = exchange.pool
    cdef uint32_t slot
    exchange.pool = pool
    exchange.want_model(exchange.wanted_model)   # whose bit may be another there
    exchange.last_endpoint = -1               # an index of the old one
    exchange.tried.count = 0
    if exchange.kept_to >= 0:
        exchange.kept_to = pool.index_at(old.endpoints.addresses[exchange.kept_to]) if pool.sticky else -1
    if pool.sequences is None:
        if exchange.pinned:                   # they were switched off: it is as good as any request
            exchange.pinned = exchange.tied = False
            exchange.pin = 0
            exchange.bound = -1
    elif exchange.bound >= 0:
        slot = old.sequences.slots[exchange.bound]
        exchange.bound = pool.sequences.index_of(slot)
        if exchange.bound < 0 and pool.leaving is not None:
            exchange.pool = pool.leaving
            exchange.bound = exchange.pool.sequences.index_of(slot)
        if exchange.bound < 0:
            exchange.bound = BOUND_LOST


cdef void follow(Exchange exchange) noexcept:
    cdef Pool pool = exchange.pool, newest = pool.newer
    cdef int failed = exchange.last_endpoint
    exchange.move_to(newest)
    if failed >= 0 and exchange.pool is newest:
        exchange.last_endpoint = newest.index_at(<str>pool.endpoints.addresses[failed])
