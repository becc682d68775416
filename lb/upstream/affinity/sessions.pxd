"""The sessions of a pool that its endpoints make: learned from their answers, so that a session's requests reach the
endpoint that has it.

HAProxy's `stick store-response` with `stick match`, nginx' `sticky learn`. What names a session is a cookie or a
header; the table has its keyed hash, and is the segment's: the same for all workers, whichever of them die.
"""

from libc.stdint cimport uint64_t
from lb.http.head cimport Field
from lb.upstream.affinity.pool_affinity cimport PoolAffinity


cdef enum said:
    SAID_NOTHING = 0
    SAID_SESSION                      # here is one
    SAID_ENDED                        # it is over


cdef class Sessions(PoolAffinity):
    cdef readonly bytes name          # of the cookie, or of the header in lower case
    cdef readonly bint header         # which of the two
    cdef uint64_t *words              # this worker's, of the pool's sessions: SESSIONS of words.py

    cdef uint64_t key_of(self, const char *text, size_t n) noexcept nogil
    # Whether the session is known; `index` is its endpoint in the pool, -1 where that has left. It is in use, then.
    cdef bint find(self, uint64_t key, uint64_t now, int *index) noexcept nogil
    # What an answer says of a session, and of which. `now` is Unix seconds.
    cdef said read_answer(self, const Field *fields, int count, uint64_t now, uint64_t *key) noexcept
