"""What keeps a request to an endpoint: its pool's cookie, a session that the pool has learned, or a sequence."""

from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer
from lb.http.head cimport Field, Scan
from lb.upstream.pool cimport Pool


cdef enum:
    SEQUENCE_GONE = -2                # the sequence had an endpoint, which is not there any more

cdef struct tg_affinity:
    int sticky                        # index of the endpoint that a cookie or a session names; -1 = none
    int sequence_at                   # index of the only endpoint that will do, its sequence's; -1 = any; SEQUENCE_GONE
    uint64_t key                      # of the sequence where `in_sequence`, else of the session; 0 = not known
    unsigned char in_sequence         # the request belongs to a sequence: no hedge, no answer from the cache
    unsigned char starts              # it is the sequence's first
    unsigned char ends                # it is the sequence's last
    unsigned char cookie_due          # the cookie is to be given anew
    unsigned char sticky_full         # the endpoint that is named is only full: the client stays with it


# Finds the endpoint that the request's cookie names, and takes the cookie out of the request.
cdef void read_cookie(tg_affinity *affinity, Pool pool, Scan *scan) noexcept
# Set-Cookie, where the client has to be told that `endpoint` answers.
cdef void append_cookie(const tg_affinity *affinity, Pool pool, int endpoint, tg_buffer *head) noexcept

# Finds the endpoint of the request's session. Only what an endpoint has said gets into the table: clients that make
# names up find nothing, and put nothing there.
cdef void read_session(tg_affinity *affinity, Pool pool, const Scan *scan, uint64_t now) noexcept
# An answer of `endpoint` is taken, with `status` as of HTTP: learns what its fields say.
cdef void learn(tg_affinity *affinity, Pool pool, int endpoint, int status, const Field *fields, int count,
                uint64_t now) noexcept

# Where the sequence is by now, if that is another endpoint of the pool than `sequence_at`; else -1.
cdef int sequence_now(const tg_affinity *affinity, Pool pool, uint64_t now) noexcept
# A request of the sequence is over: `well`, or at least asked of an endpoint. `left`: its client did not wait.
cdef void leave_sequence(const tg_affinity *affinity, Pool pool, bint asked, bint well, bint left,
                         uint64_t now) noexcept
# A reload gave the pool `old` another form: endpoints get the numbers of that. The pool in which they are: `pool`, or
# that of the endpoints which leave it (Pool.leaving).
cdef Pool follow_pool(tg_affinity *affinity, Pool old, Pool pool)
