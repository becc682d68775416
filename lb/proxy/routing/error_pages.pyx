"""Error pages: see error_pages.pxd. Pages are looked up by errors alone: other answers cost nothing."""

from libc.stdio cimport snprintf
from libc.string cimport memchr, memset
from lb.http.head cimport same_name
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.proxy.exchange.refusal cimport Refusal
from lb.proxy.routing.headers.fields cimport FieldRules
from lb.proxy.routing.values.format cimport V_ERROR_MESSAGE, V_ERROR_STATUS, Format, tg_values

from lb.config.plan.routes import ErrorPagePlan, FieldsPlan
from lb.config.values import has_values
from lb.proxy.routing.body_encoding import body_encoding


cdef class ErrorPage:

    def __init__(self, plan: ErrorPagePlan) -> None:
        self.status = plan.status
        self.intercept = plan.intercept
        self.body = plan.body
        self.head = b""
        self.names = tuple([name.lower().encode("ascii") for name, _ in plan.fields])
        if any([has_values(value) for _, value in plan.fields]):
            self.fields = FieldRules(FieldsPlan(add=plan.fields))
        else:
            self.head = b"".join([f"{name}: {value}\r\n".encode("latin-1") for name, value in plan.fields])
        if plan.text:
            self.format = Format(plan.text, body_encoding(dict(plan.fields)))
        self.valued = self.fields is not None or self.format is not None

    cdef bytes make(self, tg_buffer *head, const tg_values *values):
        cdef tg_buffer text
        cdef bytes body = self.body
        cdef int failed
        if tg_buffer_append(head, <const char *>self.head, <size_t>len(self.head)) < 0:
            return None
        if self.fields is not None and self.fields.append_values(head, values):
            return None
        if self.format is not None:
            memset(&text, 0, sizeof(text))
            failed = self.format.append(&text, values)
            body = None if failed else tg_buffer_head(&text)[:tg_buffer_size(&text)]
            tg_buffer_free(&text)
        return body

    cdef void dress(self, Refusal answer, const tg_values *values) noexcept:
        cdef tg_buffer head
        cdef bytes body
        memset(&head, 0, sizeof(head))
        try:
            body = self.make(&head, values)
        except MemoryError:
            body = None
        if body is None or append_others(&head, &answer.head, self.names) < 0:
            tg_buffer_free(&head)
            return
        tg_buffer_free(&answer.head)
        answer.head = head
        answer.body = body
        answer.part.iov_base = <char *>body
        answer.part.iov_len = <size_t>len(body)
        if self.status:
            answer.status = self.status


cdef class ErrorPages:

    def __init__(self, plans: tuple[ErrorPagePlan, ...]) -> None:
        cdef ErrorPage page
        self.own = {}
        self.intercepting = {}
        for plan in plans:
            page = ErrorPage(plan)
            for status in plan.statuses:
                self.own.setdefault(status, page)
                if page.intercept:
                    self.intercepting.setdefault(status, page)

    cdef ErrorPage find(self, int status, bint intercept):
        return <ErrorPage>(self.intercepting if intercept else self.own).get(status)


cdef ErrorPages error_pages(plans):
    return ErrorPages(plans) if plans else None


cdef void note_error(tg_values *values, int status, const char *message, size_t n, char *text) noexcept nogil:
    values.known[V_ERROR_STATUS].n = <size_t>snprintf(text, 16, b"%d", status)
    values.known[V_ERROR_STATUS].at = text
    values.known[V_ERROR_MESSAGE].at = message
    values.known[V_ERROR_MESSAGE].n = n


cdef int append_others(tg_buffer *head, const tg_buffer *lines, tuple names) noexcept:
    """Appends the field lines whose names are none of `names`. 0 or -1 (no memory)."""
    cdef const char *at = tg_buffer_head(lines)
    cdef const char *end = at + tg_buffer_size(lines)
    cdef const char *stop
    cdef const char *colon
    while at < end:
        stop = <const char *>memchr(at, 10, <size_t>(end - at))
        stop = end if stop == NULL else stop + 1
        colon = <const char *>memchr(at, 58, <size_t>(stop - at))
        if colon == NULL or not is_one_of(at, <size_t>(colon - at), names):
            if tg_buffer_append(head, at, <size_t>(stop - at)) < 0:
                return -1
        at = stop
    return 0


cdef bint is_one_of(const char *name, size_t n, tuple names) noexcept:
    cdef object each
    for each in names:
        if <size_t>len(<bytes>each) == n and same_name(name, n, <const char *><bytes>each):
            return True
    return False
