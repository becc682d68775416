"""Stick tables in the course of an exchange: see tracking.pxd.

A *tarpit* (HAProxy's term) holds a refusal back, so that a client that sends one request after the other gets nowhere.
Nothing of the request is kept meanwhile. A worker holds TARPIT_ROOM exchanges at most; further ones are refused at
once.
"""

from lb.failure cimport FAIL_NO_MEMORY, FAIL_TABLE_RULE, FAIL_TOO_MANY_FIELDS
from lb.http.head cimport Scan
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.exchange.parked cimport Parked, Wait, hold
from lb.proxy.routing.stick cimport RULE_DENIED, RULE_NO_MEMORY, RULE_PASSED, tg_rule
from lb.proxy.routing.values.format cimport tg_values
from lb.proxy.routing.values.gather cimport gather

cdef enum:
    TARPIT_ROOM = 4096                # exchanges of a worker

cdef int held = 0                     # of them
cdef unsigned long long tarpitted = 0
cdef unsigned long long denied = 0


def counts():
    """Counts of this worker since it started, for the status page; `tarpit_held` is of now."""
    return {"table_denied": denied, "table_tarpitted": tarpitted, "tarpit_held": held}


cdef class Tarpit(Wait):
    """Of an exchange whose refusal, with `status`, is held back."""
    cdef int status

    cdef void on_timer(self) noexcept:
        cdef Parked parked = self.parked
        cdef Exchange exchange
        global held
        if parked is None:
            return
        held -= 1
        exchange = parked.exchange
        parked.release()
        deny(exchange, self.status)

    cdef void called_off(self, Exchange exchange) noexcept:
        global held
        held -= 1
        # It was refused, and counts so: who hangs up gets no further than who waits.
        if exchange.tracked is not None:
            exchange.tracked.end(self.status < 500, self.status >= 500, exchange.bytes_in, 0)


cdef void deny(Exchange exchange, int status) noexcept:
    exchange.fail_with(FAIL_TABLE_RULE, status, "Forbidden" if status == 403 else "too many requests"
                       if status == 429 else "Service Unavailable")


cdef bint track(Exchange exchange, Scan *scan, bint late) noexcept:
    cdef tg_values values
    cdef tg_rule what
    cdef int result = RULE_NO_MEMORY
    global denied
    gather(&values, exchange, scan, exchange.route.values)
    try:
        exchange.tracked = exchange.route.tracking.track(exchange.tracked, late, &values, &result, &what)
    except MemoryError:
        pass
    if result == RULE_PASSED:
        return True
    exchange.request_complete = scan.complete     # then the connection can go on
    if result == RULE_DENIED:
        denied += 1
        if what.tarpit == 0 or not hold_back(exchange, &what):
            deny(exchange, what.status)
    elif result == RULE_NO_MEMORY:
        exchange.fail(FAIL_NO_MEMORY, "out of memory")
    else:
        exchange.fail(FAIL_TOO_MANY_FIELDS, "a key of the tables would be too long")
    return False


cdef bint hold_back(Exchange exchange, const tg_rule *what) noexcept:
    cdef Tarpit tarpit
    global held, tarpitted
    if held >= TARPIT_ROOM:
        return False
    try:
        tarpit = Tarpit.__new__(Tarpit)
    except MemoryError:
        return False
    tarpit.status = what.status
    if hold(exchange, tarpit) < 0:
        return False
    exchange.client.poller.disarm(exchange)   # the time that its route allows is not for this
    held += 1
    tarpitted += 1
    exchange.client.poller.arm(tarpit, exchange.started + what.tarpit)
    return True
