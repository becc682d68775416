"""Exchanges that wait for their turn: see delay.pxd.

How many of one client wait is bounded by the burst of its limit, how many of all by ROOM. An exchange whose turn comes
after its deadline is refused at once. What is refused, or leaves before its turn, gives its token back: otherwise
clients with less patience than the burst takes would keep the bucket empty, and none of them would be served.
"""

from libc.stdint cimport uint64_t
from lb.failure cimport FAIL_NO_MEMORY, FAIL_RATE_LIMIT
from lb.http.head cimport Scan
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.exchange.parked cimport Parked, Wait, go_on_type, park
from lb.proxy.exchange.request_key cimport rate_bucket
from lb.proxy.routing.rate cimport RateLimit

cdef enum:
    ROOM = 4096                       # exchanges of a worker that wait

cdef int waiting = 0


def counts():
    """Counts of this worker, for the status page: exchanges that wait now."""
    return {"rate_delayed": waiting}


cdef class Turn(Wait):
    cdef uint64_t bucket              # which its token is from

    cdef void on_timer(self) noexcept:
        cdef Parked parked = self.parked
        cdef Exchange exchange
        global waiting
        if parked is None:
            return
        waiting -= 1
        exchange = parked.exchange
        parked.release()
        parked.resume(exchange, parked.request())

    cdef void called_off(self, Exchange exchange) noexcept:
        global waiting
        waiting -= 1
        exchange.route.rate.give_back(self.bucket, exchange.client.poller.now)


cdef bint delayed(Exchange exchange, Scan *scan, object admission, go_on_type go_on) noexcept:
    cdef RateLimit rate = exchange.route.rate
    cdef uint64_t wait = rate.wait_of(&exchange.rate)
    cdef uint64_t now = exchange.client.poller.now
    cdef uint64_t when = now + wait
    cdef uint64_t late = when - exchange.expires if when >= exchange.expires else 0
    cdef uint64_t bucket
    cdef Turn turn
    global waiting
    if wait == 0:
        return False
    bucket = rate_bucket(exchange, scan)
    if waiting >= ROOM or when >= exchange.expires:
        rate.refuse(bucket, now, late if late else rate.limit.interval, &exchange.rate)
        exchange.request_complete = scan.complete     # then the connection can go on
        exchange.fail(FAIL_RATE_LIMIT, "too many requests wait for their turn; Retry-After says when to ask again")
        return True
    turn = new_turn()
    if turn is None or park(exchange, scan, turn, admission, go_on) < 0:
        rate.give_back(bucket, now)
        exchange.request_complete = scan.complete
        exchange.fail(FAIL_NO_MEMORY, "out of memory")
        return True
    turn.bucket = bucket
    waiting += 1
    rate.timers.arm(turn, when)
    return True


cdef Turn new_turn():
    try:
        return Turn.__new__(Turn)
    except MemoryError:
        return None
