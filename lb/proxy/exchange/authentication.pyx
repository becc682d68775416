"""Who an exchange is from: see authentication.pxd.

An exchange whose credential has to be checked is *parked*: its head is kept, and as much of its body as comes, up to a
bound. Like credentials are checked once. A flood of credentials that nobody knows meets two bounds, of all that wait
for a provider and of what waits from one source, and costs others nothing but the thread's time.
"""

from functools import partial

from libc.stdint cimport uint64_t
from libc.string cimport memset
from lb.failure cimport (
    FAIL_BAD_CREDENTIAL, FAIL_FORBIDDEN, FAIL_NO_CREDENTIAL, FAIL_NO_MEMORY, FAIL_RATE_LIMIT, FAIL_TOO_MANY_FIELDS,
    FAIL_UNCHECKED, grpc_code,
)
from lb.http.head cimport Scan
from lb.http.kept_head cimport head_free, head_keep, head_restore, tg_kept_head
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.net.poller cimport monotonic_ns
from lb.net.source_key cimport hash_source, tg_prefixes
from lb.net.stream cimport iovec
from lb.proxy.access.guard cimport Guard
from lb.proxy.access.known cimport (
    ACCESS_DENIED, ACCESS_FORBIDDEN, ACCESS_GRANTED, ACCESS_NONE, ACCESS_UNAVAILABLE, ACCESS_UNKNOWN, NONE, UNAVAILABLE,
    Decision, Known,
)
from lb.proxy.access.provider cimport Provider
from lb.proxy.access.server cimport tg_asker
from lb.proxy.exchange.authorization cimport AuthQuestion, ask_server, recall
from lb.proxy.exchange.exchange cimport X_DONE, X_NEW, BodySource, Exchange
from lb.proxy.exchange.refusal cimport SPEAKS_HTTP, Refusal, refusal

cdef enum:
    BODY_KEPT = 64 * 1024             # bytes, from which on a client has to wait with more
    FROM_ONE_SOURCE = 32              # exchanges that may wait for a check
    ASKED_FOR_ONE_SOURCE = 512        # and for an authorization server, which is asked about each request
    MESSAGE_MOST = 1024               # bytes of a server's text for a client of gRPC

cdef Known marked                     # the identity in the head that is being looked at, which points to it
cdef dict sources = {}                # source -> exchanges of it that wait
cdef tg_prefixes NETWORK              # a client has a /64 and can change the rest at will
NETWORK.v4 = 32
NETWORK.v6 = 64
# The head of an exchange that waited.
cdef Scan RESUMED
RESUMED.max_fields = 1000


cdef bint authenticate(Exchange exchange, Scan *scan, object admission, go_on_type go_on) noexcept:
    cdef Guard guard = exchange.route.guard
    cdef Known found, remembered
    cdef Provider provider
    cdef dict answers = None
    cdef tg_asker asker
    if not guard.asks:
        guard.mark(scan, NONE)
        return True
    while True:
        remembered = None
        try:
            found = guard.look(scan, exchange.client.tls, exchange.started, answers)
            if found.state != ACCESS_UNKNOWN:
                return decide(exchange, scan, found, scan.complete)
            provider = <Provider>found.provider
            if provider.server is not None:
                asker = asker_of(exchange)
                remembered = recall(provider, scan, &asker, exchange.client.tls, exchange.started)
        except (MemoryError, ValueError):
            return refuse(exchange, FAIL_NO_MEMORY, "out of memory", scan.complete)
        if remembered is None:
            park(exchange, scan, admission, go_on, found, {} if answers is None else answers)
            return False
        if answers is None:
            answers = {}
        answers[provider] = remembered


cdef tg_asker asker_of(Exchange exchange) noexcept:
    cdef tg_asker asker
    asker.source = exchange.source_address(&asker.source_length)
    asker.port = exchange.client.port if asker.source == <const char *>exchange.client.ip else 0
    asker.scheme = exchange.client.scheme()
    asker.method = exchange.method
    asker.id = NULL
    asker.id_length = 0
    if exchange.ids != NULL:
        asker.id = exchange.ids.request_id
        asker.id_length = exchange.ids.request_id_length
    return asker


cdef bint decide(Exchange exchange, Scan *scan, Known found, bint complete) noexcept:
    """`complete`: all of the request has come."""
    if found.state == ACCESS_GRANTED:
        return admit(exchange, scan, found, complete)
    if found.state == ACCESS_FORBIDDEN:
        note(exchange, found.identity)
        return refuse(exchange, FAIL_FORBIDDEN, "Forbidden", complete)
    if found.state == ACCESS_DENIED:
        return deny(exchange, <Decision>found, complete)
    if found.state == ACCESS_UNAVAILABLE:
        return refuse(exchange, FAIL_UNCHECKED, "the credential cannot be checked now", complete)
    if found.state == ACCESS_NONE:
        return refuse(exchange, FAIL_NO_CREDENTIAL, "Unauthorized: the request says not who it is from", complete)
    return refuse(exchange, FAIL_BAD_CREDENTIAL, "Unauthorized: the credential is not accepted", complete)


cdef bint deny(Exchange exchange, Decision decision, bint complete) noexcept:
    """The answer is that of an authorization server, or says what the credential needs."""
    cdef tg_buffer fields
    cdef iovec part
    cdef Refusal told
    cdef bytes body = decision.body
    cdef int status = decision.status
    exchange.request_complete = complete
    note(exchange, decision.identity)
    exchange.note_failure(FAIL_BAD_CREDENTIAL if status == 401 else FAIL_FORBIDDEN)
    exchange.status = <short>status
    memset(&fields, 0, sizeof(fields))
    tg_buffer_append(&fields, <const char *>decision.lines, <size_t>len(decision.lines))
    if exchange.route.cors is not None:
        exchange.append_cors(&fields, False)
    exchange.cancel()
    exchange.let_go(True)
    if exchange.grpc != SPEAKS_HTTP:
        text = decision.text
        if text is None:
            text = body[:MESSAGE_MOST].decode("utf-8", "replace") or "the authorization server has denied the request"
        told = refusal(status, grpc_code(status), text, exchange.grpc, &fields, 0)
        exchange.record()
        exchange.client.respond_whole(told.status, &told.head, &told.part, 1)
    else:
        part.iov_base = <char *>body
        part.iov_len = <size_t>len(body)
        exchange.bytes_out = part.iov_len
        exchange.record()
        exchange.client.respond_whole(status, &fields, &part, 1)
    tg_buffer_free(&fields)
    return False


cdef bint refuse(Exchange exchange, int kind, str message, bint complete) noexcept:
    exchange.request_complete = complete      # then the connection can go on
    exchange.fail(kind, message)
    return False


cdef void note(Exchange exchange, bytes identity) noexcept:
    """For the access log."""
    if exchange.recorded() and tg_buffer_append(
            &exchange.target, <const char *>identity, <size_t>len(identity)) == 0:
        exchange.identity_length = <unsigned char>len(identity)


cdef bint admit(Exchange exchange, Scan *scan, Known found, bint complete) noexcept:
    global marked
    marked = found
    note(exchange, found.identity)
    if isinstance(found, Decision) and (<Decision>found).lines:
        exchange.granted = (<Decision>found).lines
    if exchange.route.guard.mark(scan, found) < 0:
        exchange.granted = None
        return refuse(exchange, FAIL_TOO_MANY_FIELDS, "the header fields are too many", complete)
    return True


cdef class Parked(BodySource):
    """Of an exchange that waits for the check of its credential. It stays new meanwhile."""
    cdef Exchange exchange            # None: it does not wait any more
    cdef BodySource real              # that it has once it goes on; None: its body is plain
    cdef object admission
    cdef go_on_type go_on
    cdef tg_kept_head head
    cdef tg_buffer body               # what has come of it
    cdef bint complete                # that is all of it
    cdef dict answers                 # Provider -> Known
    cdef AuthQuestion question              # that it waits for; None: for none
    cdef uint64_t source
    cdef bint counted

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
        cdef AuthQuestion question = self.question
        self.exchange = None
        self.uncount()
        if question is not None:
            self.question = None
            question.leave(self)

    cdef void uncount(self) noexcept:
        if not self.counted:
            return
        self.counted = False
        left = sources[self.source] - 1
        if left:
            sources[self.source] = left
        else:
            del sources[self.source]


cdef void park(Exchange exchange, Scan *scan, object admission, go_on_type go_on, Known found, dict answers) noexcept:
    cdef Parked parked = Parked.__new__(Parked)
    cdef bint asked = (<Provider>found.provider).server is not None
    cdef Known known
    cdef size_t n
    cdef const char *source = exchange.source_address(&n)
    parked.source = hash_source(source, n, &NETWORK)
    if sources.get(parked.source, 0) >= (ASKED_FOR_ONE_SOURCE if asked else FROM_ONE_SOURCE):
        refuse(exchange, FAIL_RATE_LIMIT, "too many requests from one source wait to be let in", scan.complete)
        return
    if head_keep(&parked.head, scan) < 0:
        refuse(exchange, FAIL_NO_MEMORY, "out of memory", scan.complete)
        return
    parked.admission = admission
    parked.go_on = go_on
    parked.real = exchange.source
    parked.answers = answers
    parked.exchange = exchange
    exchange.source = parked
    sources[parked.source] = sources.get(parked.source, 0) + 1
    parked.counted = True
    try:
        known = ask(parked, exchange, scan, found)
    except MemoryError:
        known = UNAVAILABLE
    if known is not None:
        parked.answers[found.provider] = known
        resume(parked, exchange, True)


cdef Known ask(Parked parked, Exchange exchange, Scan *scan, Known found):
    """Has the credential checked, or the server asked. None: the answer comes later."""
    cdef Provider provider = <Provider>found.provider
    cdef list others
    cdef tg_asker asker
    if provider.server is not None:
        asker = asker_of(exchange)
        asked = ask_server(provider, exchange.client.poller, scan, &asker, exchange.client.tls, parked, told)
        if isinstance(asked, Known):
            return <Known>asked
        parked.question = <AuthQuestion>asked
        return None
    others = provider.waiting.get(found.digest)
    if others is not None:
        others.append(parked)
        return None
    if len(provider.waiting) >= provider.checker.room:
        return UNAVAILABLE
    provider.waiting[found.digest] = [parked]
    provider.checker.ask(found.digest, found.credential, partial(answered, provider))
    return None


def answered(Provider provider not None, bytes digest not None, outcome):
    """A check has found something (lb.proxy.access.checks.Outcome). From the loop, outside of a batch."""
    cdef Parked parked
    cdef Known found = provider.settle(digest, outcome, monotonic_ns())
    for parked in provider.waiting.pop(digest):
        if parked.exchange is not None:
            parked.exchange.client.poller.now = monotonic_ns()
        told(parked, provider, found)


cdef void told(object waiter, Provider provider, Known found) noexcept:
    cdef Parked parked = <Parked>waiter
    cdef Exchange exchange = parked.exchange
    parked.question = None
    if exchange is not None and exchange.state == X_NEW and exchange.source is parked:
        parked.answers[provider] = found
        resume(parked, exchange, False)


cdef void resume(Parked parked, Exchange exchange, bint at_once) noexcept:
    """`at_once`: its head has just come, and the client goes on with the body by itself."""
    cdef Known found, known
    cdef iovec body
    cdef bint complete
    head_restore(&RESUMED, &parked.head)
    complete = RESUMED.complete if at_once else parked.complete
    while True:
        try:
            found = exchange.route.guard.look(
                &RESUMED, exchange.client.tls, exchange.client.poller.now, parked.answers)
        except (MemoryError, ValueError):
            refuse(exchange, FAIL_NO_MEMORY, "out of memory", complete)
            return
        if found.state != ACCESS_UNKNOWN:
            break
        try:
            known = ask(parked, exchange, &RESUMED, found)
        except MemoryError:
            known = UNAVAILABLE
        if known is None:
            return
        parked.answers[found.provider] = known
    parked.leave(exchange)
    exchange.source = parked.real
    exchange.request_complete = False         # of its attempt, or its source
    exchange.wants_body = True
    if not decide(exchange, &RESUMED, found, complete):
        return
    parked.go_on(parked.admission, exchange, &RESUMED)
    if at_once or exchange.state == X_DONE or exchange.request_complete:
        return
    if tg_buffer_size(&parked.body) or parked.complete:
        body.iov_base = tg_buffer_head(&parked.body)
        body.iov_len = tg_buffer_size(&parked.body)
        exchange.bytes_in -= body.iov_len     # which were counted as they came
        exchange.take_body(&body, 1 if body.iov_len else 0, body.iov_len, parked.complete)
    if not parked.complete and exchange.state != X_DONE and exchange.wants_body:
        exchange.client.resume_request()
