"""Requests that wait before their exchange has an endpoint: see parked.pxd."""

from libc.string cimport memset
from lb.failure cimport FAIL_NO_MEMORY
from lb.http.head cimport Scan
from lb.http.kept_head cimport head_free, head_keep, head_restore
from lb.net.buffer cimport tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.net.stream cimport iovec
from lb.proxy.exchange.exchange cimport X_DONE, BodySource, Exchange

cdef enum:
    BODY_KEPT = 64 * 1024             # bytes, from which on a client has to wait with more

# The request that goes on.
cdef Scan RESUMED
RESUMED.max_fields = 1000


cdef class Wait(Timed):

    cdef void called_off(self, Exchange exchange) noexcept:
        pass


cdef class Parked(BodySource):

    def __cinit__(self):
        memset(&self.head, 0, sizeof(self.head))
        memset(&self.body, 0, sizeof(self.body))

    def __dealloc__(self):
        head_free(&self.head)
        tg_buffer_free(&self.body)

    cdef void take(self, Exchange exchange, const iovec *spans, int count, size_t size, bint last) noexcept:
        cdef int i
        if last:
            self.complete = exchange.request_complete = True
        if self.go_on == NULL:
            exchange.wants_body = False
            return
        for i in range(count):
            if tg_buffer_append(&self.body, spans[i].iov_base, spans[i].iov_len) < 0:
                exchange.fail(FAIL_NO_MEMORY, "out of memory")
                return
        if not last and tg_buffer_size(&self.body) >= BODY_KEPT:
            exchange.wants_body = False

    cdef void leave(self, Exchange exchange) noexcept:
        cdef Wait wait = self.wait
        if self.exchange is None:
            return
        self.exchange = None
        self.wait = None
        wait.parked = None
        wait.called_off(exchange)
        if self.real is not None:
            self.real.leave(exchange)

    cdef Scan *request(self) noexcept:
        cdef size_t size = tg_buffer_size(&self.body)
        head_restore(&RESUMED, &self.head)
        if size or self.complete:             # else what the head said of the body still holds
            RESUMED.complete = self.complete
            RESUMED.body_bytes = size
            RESUMED.span_count = 1 if size else 0
            RESUMED.spans[0].iov_base = tg_buffer_head(&self.body)
            RESUMED.spans[0].iov_len = size
        return &RESUMED

    cdef void release(self) noexcept:
        cdef Exchange exchange = self.exchange
        self.exchange = None
        self.wait.parked = None
        self.wait = None
        exchange.source = self.real

    cdef void resume(self, Exchange exchange, Scan *scan) noexcept:
        cdef iovec body
        exchange.request_complete = False     # of its attempt, or its source
        exchange.wants_body = True
        self.go_on(self.admission, exchange, scan)
        if exchange.state == X_DONE or exchange.request_complete:
            return
        body.iov_base = tg_buffer_head(&self.body)
        body.iov_len = tg_buffer_size(&self.body)
        if body.iov_len or self.complete:
            exchange.bytes_in -= body.iov_len     # which were counted as they came
            exchange.take_body(&body, 1 if body.iov_len else 0, body.iov_len, self.complete)
        if not self.complete and exchange.state != X_DONE and exchange.wants_body:
            exchange.client.resume_request()


cdef int park(Exchange exchange, const Scan *scan, Wait wait, object admission, go_on_type go_on) noexcept:
    cdef Parked parked = new_parked()
    if parked is None or head_keep(&parked.head, scan) < 0:
        return -1
    parked.real = exchange.source
    parked.admission = admission
    parked.go_on = go_on
    begin_wait(parked, exchange, wait)
    return 0


cdef int hold(Exchange exchange, Wait wait) noexcept:
    cdef Parked parked = new_parked()
    if parked is None:
        return -1
    if exchange.source is not None:
        exchange.source.leave(exchange)
    begin_wait(parked, exchange, wait)
    return 0


cdef Parked new_parked():
    try:
        return Parked.__new__(Parked)
    except MemoryError:
        return None


cdef void begin_wait(Parked parked, Exchange exchange, Wait wait) noexcept:
    parked.exchange = exchange
    parked.wait = wait
    wait.parked = parked
    exchange.source = parked
