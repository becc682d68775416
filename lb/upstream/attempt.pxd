"""One attempt at one endpoint: how far it is, what it has taken there, and giving that back.

    take_slot  an endpoint was chosen: the attempt holds one slot there, and the load that was charged
    launch     the protocol's own: the request goes to that endpoint
    release    the attempt is over, in whatever way: slot and load go back, and its outcome is counted and judged

The protocols derive from it what they send: `lb.upstream.connections.http1.Http1Call` and
`lb.upstream.connections.http2_call.Http2Call`, and from those the attempts of exchanges. Checks and probes are calls
that take no slot.
"""

from libc.stdint cimport uint64_t
from lb.http.head cimport Scan
from lb.net.poller cimport Timed
from lb.net.states cimport tg_move, tg_states
from lb.net.stream cimport iovec
from lb.upstream.pool cimport Pool
from lb.upstream.queue cimport Waiter


cdef enum:
    A_OVER = 0                        # no endpoint is held: the attempt has not begun, or it has been released
    A_PICKED                          # an endpoint is chosen and a slot taken there
    A_CONNECTING                      # a connection is being made
    A_SENDING                         # the request is on its way
    A_SENT                            # the whole request is with the connection; the answer has not begun
    A_ANSWERING                       # the answer has begun

cdef enum ending:
    ENDED                             # with an answer, or by failing
    STOPPED                           # another attempt answered, or its client left a hedge: nothing is learned from it
    GIVEN_UP                          # a hedge answered before it: the endpoint seems slow
    SESSION_ENDED                     # of bytes, whose duration and status are not the endpoint's


cdef struct tg_outcome:
    ending how
    bint ok                           # the endpoint did what was asked of it
    bint answered                     # the answer was the endpoint's, and none of ours
    int status                        # of HTTP; ours where no answer came; 0 = stopped
    int code                          # of gRPC; -1 = it was no call, or its status is not known
    int verdict                       # what that says of the endpoint (VERDICT_… of lb.failure)
    bint late                         # it was an endpoint's fault, or seemed so, when the exchange's time was over
    uint64_t bytes_in                 # of the answer's body
    uint64_t bytes_out                # of the request's body


cdef class Attempt(Timed):
    cdef Waiter owner                 # the exchange or TCP session that it is of; None: a check, a probe, or let go of
    cdef Pool pool                    # in the form that it had when the endpoint was chosen
    cdef unsigned char state          # A_…
    cdef short in_flight              # requests at the endpoint at the start, this one included; 0 = unknown
    cdef int endpoint                 # index in the pool; the last one held once the attempt is over
    cdef int charged                  # load that it added to the endpoint; 0 = requests are not weighed
    cdef int load                     # of the endpoint at the start, its own included; 0 = unknown
    cdef uint64_t picked_at           # monotonic ns
    cdef uint64_t sent_at             # when the whole request was with the connection; 0 = it is not
    cdef bint client_slow             # the endpoint had to wait for the client to read
    cdef uint64_t connected_at        # monotonic ns, where a record is kept; 0 = it used a connection that was there

    # What an exchange asks of its attempt.
    # Brings the request's head into the protocol's form. True: an endpoint is wanted now; else later, or the exchange
    # has failed.
    cdef bint begin(self, Scan *scan) noexcept
    # The request goes to the endpoint that was taken, as far as it has come.
    cdef void launch(self) noexcept
    # Stops it at the endpoint, without a callback; the endpoint is told.
    cdef void stop(self) noexcept
    # A piece of the request's body, its spans `size` bytes together; `last` completes it.
    cdef void take_body(self, const iovec *spans, int count, size_t size, bint last) noexcept
    # Up to `size` bytes of it past this process: as lb.net.splice's `pass_through` says.
    cdef Py_ssize_t pass_body(self, size_t size) noexcept
    # The scan's trailers, which come before the last piece.
    cdef void take_trailers(self, Scan *scan) noexcept
    # The client has taken what waited for it.
    cdef void client_drained(self) noexcept
    # Whether another attempt may follow a failure of `kind` (lb.failure): what was sent does no harm, and all of it
    # is kept. The retry is granted then, and has to follow.
    cdef bint may_retry(self, int kind) noexcept
    # Whether all of the request is here and may be sent once more, whatever became of the first time.
    cdef bint repeatable(self) noexcept
    # Another attempt with the same request, for a hedge; None: out of memory.
    cdef Attempt twin(self)
    # The rest of the outcome of the exchange's own attempt: its code and verdict.
    cdef void judge_outcome(self, tg_outcome *outcome) noexcept
    # An answer that has begun ends by an error in its own protocol, for a failure of this kind (lb.failure). False: it
    # has no such way, and the client's connection is cut.
    cdef bint end_answer(self, int kind, str message) noexcept
    # Nothing has passed behind an upgrade for too long.
    cdef void idle(self) noexcept


cdef tg_states ATTEMPT                # which state may follow which


cdef inline void step(Attempt attempt, int state) noexcept nogil:
    tg_move(&ATTEMPT, &attempt.state, state)


# `pool` has counted one more in flight at `endpoint` for it, and added `charged` to the load there.
cdef void take_slot(Attempt attempt, Pool pool, int endpoint, int charged, uint64_t now) noexcept
# Gives back what it took, once; whatever its protocol.
cdef void release(Attempt attempt, const tg_outcome *outcome, uint64_t now) noexcept
