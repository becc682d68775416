"""Exchanges that wait for their turn: see delay.pxd.

An exchange that waits has its head kept, and as much of its body as comes, up to a bound. It has no endpoint. How many
of one client wait is bounded by the burst of its limit, how many of all by ROOM; one whose turn comes after its
deadline is refused at once.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memset
from lb.failure cimport FAIL_NO_MEMORY, FAIL_RATE_LIMIT
from lb.http.head cimport Scan
from lb.http.kept_head cimport head_free, head_keep, head_restore, tg_kept_head
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.net.poller cimport Timed
from lb.net.stream cimport iovec
from lb.proxy.exchange.authentication cimport go_on_type
from lb.proxy.exchange.exchange cimport X_DONE, X_NEW, BodySource, Exchange
from lb.proxy.routing.rate cimport RateLimit

cdef enum:
    ROOM = 4096                       # exchanges of a worker that wait
    BODY_KEPT = 64 * 1024             # bytes, from which on a client has to wait with more

cdef int waiting = 0
# The head of an exchange that waited.
cdef Scan RESUMED
RESUMED.max_fields = 1000


def counts():
    """Counts of this worker, for the status page: exchanges that wait now."""
    return {"rate_delayed": waiting}


cdef class TurnTimer(Timed):
    cdef Delayed delayed              # None: it is of no use any more

    cdef void on_timer(self) noexcept:
        cdef Delayed delayed = self.delayed   # which lets go of itself
        if delayed is not None:
            delayed.go()


cdef class Delayed(BodySource):
    """Of an exchange that waits for its turn. It stays new meanwhile."""
    cdef Exchange exchange            # None: it does not wait any more
    cdef BodySource real              # that it has once it goes on; None: its body is plain
    cdef object admission
    cdef go_on_type go_on
    cdef tg_kept_head head
    cdef tg_buffer body               # what has come of it
    cdef bint complete                # that is all of it
    cdef TurnTimer timer

    def __cinit__(self):
        memset(&self.head, 0, sizeof(self.head))
        memset(&self.body, 0, sizeof(self.body))

    def __dealloc__(self):
        head_free(&self.head)
        tg_buffer_free(&self.body)

    cdef void take(self, Exchange exchange, const iovec *spans, int count, size_t size, bint last) noexcept:
        cdef int i
        for i in range(count):
            if tg_buffer_append(&self.body, spans[i].iov_base, spans[i].iov_len) < 0:
                exchange.fail(FAIL_NO_MEMORY, "out of memory")
                return
        if last:
            self.complete = exchange.request_complete = True
        elif tg_buffer_size(&self.body) >= BODY_KEPT:
            exchange.wants_body = False

    cdef void leave(self, Exchange exchange) noexcept:
        self.let_go()
        if self.real is not None:
            self.real.leave(exchange)

    cdef void let_go(self) noexcept:
        global waiting
        if self.exchange is None:
            return
        waiting -= 1
        self.exchange = None
        self.timer.delayed = None
        self.timer = None                     # whose deallocation takes it off the wheel

    cdef void go(self) noexcept:
        cdef Exchange exchange = self.exchange
        cdef iovec body
        self.let_go()
        if exchange is None or exchange.state != X_NEW or exchange.source is not self:
            return
        head_restore(&RESUMED, &self.head)
        exchange.source = self.real
        exchange.request_complete = False     # of its attempt, or its source
        exchange.wants_body = True
        self.go_on(self.admission, exchange, &RESUMED)
        if exchange.state == X_DONE or exchange.request_complete:
            return
        if tg_buffer_size(&self.body) or self.complete:
            body.iov_base = tg_buffer_head(&self.body)
            body.iov_len = tg_buffer_size(&self.body)
            exchange.bytes_in -= body.iov_len     # which were counted as they came
            exchange.take_body(&body, 1 if body.iov_len else 0, body.iov_len, self.complete)
        if not self.complete and exchange.state != X_DONE and exchange.wants_body:
            exchange.client.resume_request()


cdef bint delayed(Exchange exchange, Scan *scan, object admission, go_on_type go_on) noexcept:
    cdef RateLimit rate = exchange.route.rate
    cdef uint64_t wait = rate.wait_of(&exchange.rate)
    cdef uint64_t turn = exchange.client.poller.now + wait
    cdef Delayed made
    global waiting
    if wait == 0:
        return False
    if waiting >= ROOM or turn >= exchange.expires:
        exchange.request_complete = scan.complete     # then the connection can go on
        exchange.fail(FAIL_RATE_LIMIT, "too many requests wait for their turn; Retry-After says when to ask again")
        return True
    try:
        made = Delayed.__new__(Delayed)
        made.timer = TurnTimer.__new__(TurnTimer)
    except MemoryError:
        exchange.request_complete = scan.complete
        exchange.fail(FAIL_NO_MEMORY, "out of memory")
        return True
    if head_keep(&made.head, scan) < 0:
        exchange.request_complete = scan.complete
        exchange.fail(FAIL_NO_MEMORY, "out of memory")
        return True
    made.real = exchange.source
    made.admission = admission
    made.go_on = go_on
    made.exchange = exchange
    made.timer.delayed = made
    exchange.source = made
    waiting += 1
    rate.timers.arm(made.timer, turn)
    return True
