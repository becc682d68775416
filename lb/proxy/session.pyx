"""What an exchange does with the sessions that its pool learns: see session.pxd.

Only what an endpoint has said gets into the table: clients that make names up find nothing, and put nothing there.
"""

from libc.stdint cimport uint64_t
from lb.core.head cimport Field, Scan
from lb.core.segment cimport (
    TG_S_SESSION_ENDED, TG_S_SESSION_FALLBACK, TG_S_SESSION_HIT, TG_S_SESSION_LEARNED, TG_S_SESSION_UNKNOWN, tg_add,
)
from lb.core.set_cookie cimport trim
from lb.proxy.exchange cimport Exchange
from lb.proxy.keys cimport find_value
from lb.telemetry.accesslog cimport wall_ns
from lb.upstream.pool cimport KEY_COOKIE, KEY_HEADER
from lb.upstream.sessions cimport SAID_ENDED, SAID_SESSION, Sessions, said

cdef enum:
    SECOND_NS = 1_000_000_000
    FIRST_ERROR = 400                 # from this status on an endpoint does not seem to know the session


cdef void read_session(Exchange exchange, const Scan *scan) noexcept:
    cdef Sessions sessions = exchange.pool.sessions
    cdef const char *text
    cdef size_t size
    cdef uint64_t key
    if not find_value(scan, KEY_HEADER if sessions.header else KEY_COOKIE, <const char *>sessions.name,
                      <size_t>len(sessions.name), &text, &size):
        return
    trim(&text, &size)
    if size == 0:
        return
    key = sessions.key_of(text, size)
    if sessions.find(key, exchange.client.poller.now, &exchange.kept_to):
        exchange.pin = key
    else:
        tg_add(&sessions.words[TG_S_SESSION_UNKNOWN], 1)


cdef void learn_session(Exchange exchange, int status, const Field *fields, int count) noexcept:
    cdef Sessions sessions = exchange.pool.sessions
    cdef uint64_t now = exchange.client.poller.now, key = 0
    cdef bint here = exchange.last_endpoint == exchange.kept_to
    cdef said found
    if exchange.last_endpoint < 0 or exchange.pinned:
        return                                # that of a sequence is where its sequence is
    if exchange.pin:
        tg_add(&sessions.words[TG_S_SESSION_HIT if here else TG_S_SESSION_FALLBACK], 1)
    found = sessions.read_answer(fields, count, <uint64_t>wall_ns() // SECOND_NS, &key)
    if found == SAID_ENDED:
        tg_add(&sessions.words[TG_S_SESSION_ENDED], 1)
        sessions.end(key)
        if exchange.pin:
            sessions.end(exchange.pin)
            exchange.pin = 0
    elif found == SAID_SESSION:
        if key == exchange.pin and here:
            return                            # it only says it again
        sessions.begin(key, exchange.last_endpoint, now)
        tg_add(&sessions.words[TG_S_SESSION_LEARNED], 1)
    elif exchange.pin and not here and not exchange.cookie_stays and status < FIRST_ERROR:
        sessions.begin(exchange.pin, exchange.last_endpoint, now)
