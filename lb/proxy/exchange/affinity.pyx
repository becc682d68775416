"""What keeps a request to an endpoint: see affinity.pxd."""

import logging

from libc.stdint cimport uint32_t, uint64_t
from lb.net.buffer cimport tg_buffer
from lb.http.head cimport Field, Scan
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport (
    SESSIONS_ENDED, SESSIONS_LEARNED, SESSIONS_REQUESTS_FALLBACK, SESSIONS_REQUESTS_HIT, SESSIONS_REQUESTS_UNKNOWN,
)
from lb.http.set_cookie cimport trim
from lb.proxy.routing.keys cimport drop_cookie, find_value
from lb.telemetry.accesslog cimport wall_ns
from lb.upstream.affinity.cookie cimport EndpointCookie
from lb.upstream.pool cimport KEY_COOKIE, KEY_HEADER, Pool
from lb.upstream.affinity.sequences cimport Sequences
from lb.upstream.affinity.sessions cimport SAID_ENDED, SAID_SESSION, Sessions, said

log = logging.getLogger("tidegate.proxy")

cdef enum:
    SECOND_NS = 1_000_000_000
    FIRST_ERROR = 400                 # from this status on an endpoint does not seem to know the session


cdef void read_cookie(tg_affinity *affinity, Pool pool, Scan *scan) noexcept:
    cdef EndpointCookie cookie = pool.cookie
    cdef const char *name = <const char *>cookie.name
    cdef size_t n = <size_t>len(cookie.name)
    cdef const char *text
    cdef size_t size
    cdef bint due = False
    if not find_value(scan, KEY_COOKIE, name, n, &text, &size):
        return
    affinity.sticky = cookie.index_of(text, size, <uint64_t>wall_ns() // SECOND_NS, &due)
    affinity.cookie_due = due
    drop_cookie(scan, name, n)


cdef void append_cookie(const tg_affinity *affinity, Pool pool, int endpoint, tg_buffer *head) noexcept:
    cdef bint here = endpoint == affinity.sticky
    if endpoint < 0 or affinity.sequence_at != -1:
        return
    if affinity.sticky >= 0 and (not affinity.cookie_due if here else affinity.sticky_full):
        return
    if pool.cookie.append(head, endpoint, <uint64_t>wall_ns() // SECOND_NS) < 0:
        log.error("pool %s: no memory for a cookie", pool.name)


cdef void read_session(tg_affinity *affinity, Pool pool, const Scan *scan, uint64_t now) noexcept:
    cdef Sessions sessions = pool.sessions
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
    if sessions.find(key, now, &affinity.sticky):
        affinity.key = key
    else:
        tg_add(&sessions.words[SESSIONS_REQUESTS_UNKNOWN], 1)


cdef void learn(tg_affinity *affinity, Pool pool, int endpoint, int status, const Field *fields, int count,
                uint64_t now) noexcept:
    cdef Sessions sessions = pool.sessions
    cdef uint64_t key = 0
    cdef bint here = endpoint == affinity.sticky
    cdef said found
    if endpoint < 0 or affinity.in_sequence:
        return                                # that of a sequence is where its sequence is
    if affinity.key:
        tg_add(&sessions.words[SESSIONS_REQUESTS_HIT if here else SESSIONS_REQUESTS_FALLBACK], 1)
    found = sessions.read_answer(fields, count, <uint64_t>wall_ns() // SECOND_NS, &key)
    if found == SAID_ENDED:
        tg_add(&sessions.words[SESSIONS_ENDED], 1)
        sessions.end(key)
        if affinity.key:
            sessions.end(affinity.key)
            affinity.key = 0
    elif found == SAID_SESSION:
        if key == affinity.key and here:
            return                            # it only says it again
        sessions.begin(key, endpoint, now)
        tg_add(&sessions.words[SESSIONS_LEARNED], 1)
    elif affinity.key and not here and not affinity.sticky_full and status < FIRST_ERROR:
        sessions.begin(affinity.key, endpoint, now)


cdef int sequence_now(const tg_affinity *affinity, Pool pool, uint64_t now) noexcept:
    cdef Sequences sequences = pool.sequences
    cdef int index = sequences.index_of(sequences.table.look(affinity.key, now))
    return index if index >= 0 and index != affinity.sequence_at and sequences.serves(index) else -1


cdef void leave_sequence(const tg_affinity *affinity, Pool pool, bint asked, bint well, bint left,
                         uint64_t now) noexcept:
    if affinity.ends and well or affinity.starts and asked and not well and not left:
        pool.sequences.end(affinity.key)
    elif asked:
        pool.sequences.touch(affinity.key, now)


cdef Pool follow_pool(tg_affinity *affinity, Pool old, Pool pool):
    cdef uint32_t slot
    if affinity.sticky >= 0:
        affinity.sticky = pool.index_at(old.endpoints.addresses[affinity.sticky]) if pool.sticky else -1
    if pool.sequences is None:
        if affinity.in_sequence:              # they were switched off: it is as good as any request
            affinity.in_sequence = False
            affinity.key = 0
            affinity.sequence_at = -1
    elif affinity.sequence_at >= 0:
        slot = old.sequences.slots[affinity.sequence_at]
        affinity.sequence_at = pool.sequences.index_of(slot)
        if affinity.sequence_at >= 0:
            return pool
        if affinity.starts:
            affinity.sequence_at = -1         # it begins there as well as anywhere
            return pool
        if pool.leaving is not None:
            pool = pool.leaving
            affinity.sequence_at = pool.sequences.index_of(slot)
        if affinity.sequence_at < 0:
            affinity.sequence_at = SEQUENCE_GONE
    return pool
