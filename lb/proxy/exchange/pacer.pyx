"""Answers that go to the client no faster than the route's bandwidth allows: see pacer.pxd."""

from libc.stdint cimport uint64_t
from lb.failure cimport FAIL_NO_MEMORY
from lb.http.head cimport Scan
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_consume, tg_buffer_free, tg_buffer_head, tg_buffer_size,
)
from lb.net.poller cimport monotonic_ns
from lb.net.stream cimport iovec
from lb.proxy.client.client cimport Client
from lb.proxy.client.relay cimport Relay
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.exchange.request_key cimport find_text

cdef enum:
    WAIT_NS = 4_000_000               # least time between two looks at an answer
    LOW_WATER = 64 * 1024             # bytes that are kept, from which on down the endpoint may go on


# Those whose answer is complete but not gone, and which an HTTP cache has let go of. The others are their exchanges',
# which the clients keep until the end.
cdef set HELD = set()


cdef bint stands_before(Pacer pacer, Exchange exchange) noexcept:
    """Whether the exchange has it, behind others of its kind perhaps."""
    cdef Client client = exchange.client
    while client is not pacer:
        if not isinstance(client, Relay):
            return False
        client = (<Relay>client).real
    return True


cdef void pace(Exchange exchange, const Scan *scan) noexcept:
    cdef Pacer made = Pacer.__new__(Pacer)
    cdef const char *text = NULL
    cdef size_t n = 0, source_length
    cdef const char *source
    made.rules = exchange.route.bandwidth
    made.free = made.rules.after
    if made.rules.key is not None:
        if made.rules.key.text is not None and not find_text(exchange, scan, made.rules.key.text, &text, &n):
            n = 0
        source = exchange.source_address(&source_length)
        made.key = made.rules.key.find(scan, text, n, source, source_length)
    made.stand_before(exchange)


cdef class Pacer(Relay):

    def __dealloc__(self):
        tg_buffer_free(&self.rest)
        if self.taken and self.rules is not None:
            self.rules.give_back(self.key, monotonic_ns(), self.taken)

    cdef size_t allowed(self, size_t size) noexcept:
        cdef uint64_t now = self.poller.clock()
        cdef uint64_t *paid_at = NULL
        cdef size_t n
        if self.granted == 0:
            n = min(size, self.rules.piece)
            if self.rules.per_request and self.free:
                n = <size_t>min(<uint64_t>n, self.free)
                self.free -= n
            elif self.rules.per_request:
                paid_at = &self.paid_at
            self.granted = n
            self.ready_at = self.rules.grant(n, self.key, now, paid_at, &self.taken)
        if self.ready_at > now:
            self.rules.timers.arm(self, max(self.ready_at, now + WAIT_NS))
            return 0
        n = min(size, self.granted)
        self.granted -= n
        self.taken = 0
        return n

    cdef size_t pass_on(self, const char *data, size_t size) noexcept:
        cdef iovec part
        cdef size_t n, done = 0
        while done < size:
            n = self.allowed(size - done)
            if n == 0:
                break
            part.iov_base = <void *>(data + done)
            part.iov_len = n
            done += n
            self.real.respond_body(&part, 1)
        return done

    cdef void respond_whole(self, int status, const tg_buffer *head, const iovec *parts, int count) noexcept:
        cdef size_t size = 0
        cdef int i
        for i in range(count):
            size += parts[i].iov_len
        if self.real.respond_own_head(status, head, size):
            self.respond_body(parts, count)
        self.leave(PACER_ENDS)

    cdef void respond_body(self, const iovec *parts, int count) noexcept:
        cdef const char *data
        cdef size_t size, done
        cdef int i
        for i in range(count):
            data = <const char *>parts[i].iov_base
            size = parts[i].iov_len
            done = 0 if tg_buffer_size(&self.rest) else self.pass_on(data, size)
            if done < size and tg_buffer_append(&self.rest, data + done, size - done) < 0:
                self.lose()
                return

    cdef void lose(self) noexcept:
        cdef Exchange exchange = self.exchange
        tg_buffer_free(&self.rest)
        if exchange is not None:
            exchange.fail(FAIL_NO_MEMORY, "out of memory")
        else:
            self.real.abort()

    cdef void on_timer(self) noexcept:
        cdef size_t done
        cdef Exchange exchange
        if tg_buffer_size(&self.rest) == 0:
            return
        if self.ending != PACER_GOES_ON and self.real.has_left():
            tg_buffer_free(&self.rest)
            HELD.discard(self)
            return
        done = self.pass_on(tg_buffer_head(&self.rest), tg_buffer_size(&self.rest))
        tg_buffer_consume(&self.rest, done)
        if tg_buffer_size(&self.rest) == 0 and self.ending != PACER_GOES_ON:
            tg_buffer_free(&self.rest)
            HELD.discard(self)
            if self.ending == PACER_ENDS:
                self.real.respond_end()
            else:
                self.real.abort()
            return
        exchange = self.exchange
        if exchange is not None and self.backlog() <= LOW_WATER:
            exchange.client_drained()         # what was held back until some of `rest` had gone

    cdef size_t backlog(self) noexcept:
        return self.real.backlog() + tg_buffer_size(&self.rest)

    cdef void respond_end(self) noexcept:
        self.leave(PACER_ENDS)

    cdef void abort(self) noexcept:
        self.leave(PACER_CUTS)                # the client gets what came

    cdef void leave(self, pacer_end how) noexcept:
        cdef Exchange exchange = self.exchange
        self.exchange = None
        if tg_buffer_size(&self.rest):
            self.ending = how
            if exchange is None or not stands_before(self, exchange):
                HELD.add(self)
            if exchange is not None:
                exchange.wants_body = False   # the client skips the rest of its request behind the answer
        elif how == PACER_ENDS:
            self.real.respond_end()
        else:
            self.real.abort()
