"""Exchanges of a sequence: see bound.pxd."""

from libc.stdint cimport uint32_t, uint64_t
from lb.proxy.exchange cimport BOUND_LOST, Exchange
from lb.upstream.pool cimport Pool
from lb.upstream.sequences cimport (
    SEQUENCE_HERE, SEQUENCE_LEAVING, SEQUENCE_LOST, SEQUENCE_UNKNOWN, Sequences, where,
)


cdef bint bind(Exchange exchange, uint64_t key, bint start, bint end) noexcept:
    cdef int index = -1
    cdef where found = exchange.pool.sequences.find(key, start, exchange.client.poller.now, &index)
    exchange.pinned = True
    exchange.pin = key
    exchange.sequence_start = start
    exchange.sequence_end = end
    if not start:
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


cdef void begin_sequence(Exchange exchange) noexcept:
    if exchange.tries == 1:
        exchange.pool.sequences.begin(exchange.pin, exchange.endpoint, exchange.picked_at)
    else:
        exchange.pool.sequences.move(exchange.pin, exchange.endpoint, exchange.picked_at)


cdef bint may_leave(Exchange exchange) noexcept:
    return not exchange.pinned or exchange.sequence_start


cdef void untie(Exchange exchange) noexcept:
    exchange.bound = -1
    exchange.tied = False


cdef int place_now(Exchange exchange) noexcept:
    """Where its sequence is by now, if that is another endpoint of the pool than its own; else -1."""
    cdef Sequences sequences = exchange.pool.sequences
    cdef int index = sequences.index_of(sequences.pins.look(exchange.pin, exchange.client.poller.now))
    return index if index >= 0 and index != exchange.bound and sequences.serves(index) else -1


cdef bint goes_on(Exchange exchange) noexcept:
    cdef int index
    if exchange.bound == -1:
        return False
    if exchange.sequence_start:
        untie(exchange)
    else:
        index = place_now(exchange)
        if index < 0:
            return False
        exchange.bound = index
    exchange.client.poller.arm(exchange, exchange.expires)
    exchange.pick()
    return True


cdef void lose_sequence(Exchange exchange) noexcept:
    if exchange.pinned and exchange.bound != -1 and place_now(exchange) < 0:
        exchange.pool.sequences.lose(exchange.pin)


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
        if exchange.bound < 0 and exchange.sequence_start:
            untie(exchange)                   # it begins there as well as anywhere
            return
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
