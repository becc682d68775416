"""Who an exchange is from: see authentication.pxd.

An exchange whose credential has to be checked is parked (lb.proxy.exchange.parked). Like credentials are checked once.
A flood of credentials that nobody knows meets two bounds, of all that wait for a provider and of what waits from one
source, and costs others nothing but the thread's time.
"""

from functools import partial

from libc.stdint cimport uint64_t
from libc.string cimport memset
from lb.failure cimport (
    FAIL_BAD_CREDENTIAL, FAIL_FORBIDDEN, FAIL_NO_CREDENTIAL, FAIL_NO_MEMORY, FAIL_RATE_LIMIT, FAIL_TOO_MANY_FIELDS,
    FAIL_UNCHECKED, grpc_code,
)
from lb.http.head cimport Scan
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free
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
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.exchange.parked cimport Parked, Wait, go_on_type, park
from lb.proxy.exchange.refusal cimport SPEAKS_HTTP, Refusal, refusal

cdef enum:
    FROM_ONE_SOURCE = 32              # exchanges that may wait for a check
    ASKED_FOR_ONE_SOURCE = 512        # and for an authorization server, which is asked about each request
    MESSAGE_MOST = 1024               # bytes of a server's text for a client of gRPC

cdef Known marked                     # the identity in the head that is being looked at, which points to it
cdef dict sources = {}                # source -> exchanges of it that wait
cdef tg_prefixes NETWORK              # a client has a /64 and can change the rest at will
NETWORK.v4 = 32
NETWORK.v6 = 64


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
                return decide(exchange, scan, found)
            provider = <Provider>found.provider
            if provider.server is not None:
                asker = asker_of(exchange)
                remembered = recall(provider, scan, &asker, exchange.client.tls, exchange.started)
        except (MemoryError, ValueError):
            return refuse(exchange, scan, FAIL_NO_MEMORY, "out of memory")
        if remembered is None:
            wait_for_check(exchange, scan, admission, go_on, found, {} if answers is None else answers)
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


cdef bint decide(Exchange exchange, Scan *scan, Known found) noexcept:
    if found.state == ACCESS_GRANTED:
        return admit(exchange, scan, found)
    if found.state == ACCESS_FORBIDDEN:
        note(exchange, found.identity)
        return refuse(exchange, scan, FAIL_FORBIDDEN, "Forbidden")
    if found.state == ACCESS_DENIED:
        return deny(exchange, scan, <Decision>found)
    if found.state == ACCESS_UNAVAILABLE:
        return refuse(exchange, scan, FAIL_UNCHECKED, "the credential cannot be checked now")
    if found.state == ACCESS_NONE:
        return refuse(exchange, scan, FAIL_NO_CREDENTIAL, "Unauthorized: the request says not who it is from")
    return refuse(exchange, scan, FAIL_BAD_CREDENTIAL, "Unauthorized: the credential is not accepted")


cdef bint deny(Exchange exchange, Scan *scan, Decision decision) noexcept:
    """The answer is that of an authorization server, or says what the credential needs."""
    cdef tg_buffer fields
    cdef iovec part
    cdef Refusal told
    cdef bytes body = decision.body
    cdef int status = decision.status
    exchange.request_complete = scan.complete
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


cdef bint refuse(Exchange exchange, Scan *scan, int kind, str message) noexcept:
    exchange.request_complete = scan.complete     # then the connection can go on
    exchange.fail(kind, message)
    return False


cdef void note(Exchange exchange, bytes identity) noexcept:
    """For the access log."""
    if exchange.recorded() and tg_buffer_append(
            &exchange.target, <const char *>identity, <size_t>len(identity)) == 0:
        exchange.identity_length = <unsigned char>len(identity)


cdef bint admit(Exchange exchange, Scan *scan, Known found) noexcept:
    global marked
    marked = found
    note(exchange, found.identity)
    if isinstance(found, Decision) and (<Decision>found).lines:
        exchange.granted = (<Decision>found).lines
    if exchange.route.guard.mark(scan, found) < 0:
        exchange.granted = None
        return refuse(exchange, scan, FAIL_TOO_MANY_FIELDS, "the header fields are too many")
    return True


cdef class CredentialCheck(Wait):
    """Of an exchange that waits for the check of its credential."""
    cdef dict answers                 # Provider -> Known
    cdef AuthQuestion question        # that it waits for; None: for none
    cdef uint64_t source

    cdef void called_off(self, Exchange exchange) noexcept:
        cdef AuthQuestion question = self.question
        count_one_less(self.source)
        if question is not None:
            self.question = None
            question.leave(self)


cdef void count_one_less(uint64_t source) noexcept:
    left = sources[source] - 1
    if left:
        sources[source] = left
    else:
        del sources[source]


cdef void wait_for_check(Exchange exchange, Scan *scan, object admission, go_on_type go_on, Known found,
                         dict answers) noexcept:
    cdef CredentialCheck check = CredentialCheck.__new__(CredentialCheck)
    cdef bint asked = (<Provider>found.provider).server is not None
    cdef Known known
    cdef size_t n
    cdef const char *source = exchange.source_address(&n)
    check.source = hash_source(source, n, &NETWORK)
    if sources.get(check.source, 0) >= (ASKED_FOR_ONE_SOURCE if asked else FROM_ONE_SOURCE):
        refuse(exchange, scan, FAIL_RATE_LIMIT, "too many requests from one source wait to be let in")
        return
    check.answers = answers
    if park(exchange, scan, check, admission, go_on) < 0:
        refuse(exchange, scan, FAIL_NO_MEMORY, "out of memory")
        return
    sources[check.source] = sources.get(check.source, 0) + 1
    known = ask_or_unavailable(check, exchange, scan, found)
    if known is not None:
        check.answers[found.provider] = known
        go_on_checked(check)


cdef Known ask_or_unavailable(CredentialCheck check, Exchange exchange, Scan *scan, Known found):
    """As `ask`; without memory the answer is UNAVAILABLE."""
    try:
        return ask(check, exchange, scan, found)
    except MemoryError:
        return UNAVAILABLE


cdef Known ask(CredentialCheck check, Exchange exchange, Scan *scan, Known found):
    """Has the credential checked, or the server asked. None: the answer comes later."""
    cdef Provider provider = <Provider>found.provider
    cdef list others
    cdef tg_asker asker
    if provider.server is not None:
        asker = asker_of(exchange)
        asked = ask_server(provider, exchange.client.poller, scan, &asker, exchange.client.tls, check, told)
        if isinstance(asked, Known):
            return <Known>asked
        check.question = <AuthQuestion>asked
        return None
    others = provider.waiting.get(found.digest)
    if others is not None:
        others.append(check)
        return None
    if len(provider.waiting) >= provider.checker.room:
        return UNAVAILABLE
    provider.waiting[found.digest] = [check]
    provider.checker.ask(found.digest, found.credential, partial(answered, provider))
    return None


def answered(Provider provider not None, bytes digest not None, outcome):
    """A check has found something (lb.proxy.access.checks.Outcome). From the loop, outside of a batch."""
    cdef CredentialCheck check
    cdef Known found = provider.settle(digest, outcome, monotonic_ns())
    for check in provider.waiting.pop(digest):
        if check.parked is not None:
            check.parked.exchange.client.poller.now = monotonic_ns()
        told(check, provider, found)


cdef void told(object waiter, Provider provider, Known found) noexcept:
    cdef CredentialCheck check = <CredentialCheck>waiter
    check.question = None
    if check.parked is not None:
        check.answers[provider] = found
        go_on_checked(check)


cdef void go_on_checked(CredentialCheck check) noexcept:
    """By what is known now it is decided, or the next provider is asked."""
    cdef Parked parked = check.parked
    cdef Exchange exchange = parked.exchange
    cdef Scan *scan = parked.request()
    cdef Known found, known
    while True:
        try:
            found = exchange.route.guard.look(scan, exchange.client.tls, exchange.client.poller.now, check.answers)
        except (MemoryError, ValueError):
            refuse(exchange, scan, FAIL_NO_MEMORY, "out of memory")
            return
        if found.state != ACCESS_UNKNOWN:
            break
        known = ask_or_unavailable(check, exchange, scan, found)
        if known is None:
            return
        check.answers[found.provider] = known
    count_one_less(check.source)
    parked.release()
    if decide(exchange, scan, found):
        parked.resume(exchange, scan)
