"""One attempt at one endpoint: see attempt.pxd."""

from libc.stdint cimport uint64_t
from lb.failure cimport VERDICT_GOOD, VERDICT_NONE
from lb.http.head cimport Scan
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport ANSWER_RECEIVED_BYTES, ANSWER_REQUESTS_OTHER, ANSWER_SENT_BYTES
from lb.net.splice cimport PASS_NOT
from lb.net.states cimport states_of, tg_state
from lb.net.stream cimport iovec
from lb.upstream.pool cimport Pool
from lb.upstream.queue cimport Waiter
from lb.upstream.tally cimport count_attempt


cdef enum:
    MOST_IN_FLIGHT = 32767            # that is told apart
    GRPC_DEADLINE_EXCEEDED = 4
    SWITCHING_PROTOCOLS = 101

ATTEMPT.machine = b"attempt"
tg_state(&ATTEMPT, b"over", 1 << A_PICKED)
tg_state(&ATTEMPT, b"picked", 1 << A_CONNECTING | 1 << A_SENDING | 1 << A_OVER)
tg_state(&ATTEMPT, b"connecting", 1 << A_SENDING | 1 << A_OVER)
tg_state(&ATTEMPT, b"sending", 1 << A_SENT | 1 << A_ANSWERING | 1 << A_OVER)
tg_state(&ATTEMPT, b"sent", 1 << A_ANSWERING | 1 << A_OVER)
tg_state(&ATTEMPT, b"answering", 1 << A_OVER)
STATES = states_of(&ATTEMPT)


cdef class Attempt(Timed):

    cdef bint begin(self, Scan *scan) noexcept:
        return True

    cdef void launch(self) noexcept:
        pass

    cdef void stop(self) noexcept:
        pass

    cdef void take_body(self, const iovec *spans, int count, size_t size, bint last) noexcept:
        pass

    cdef Py_ssize_t pass_body(self, size_t size) noexcept:
        return PASS_NOT

    cdef void take_trailers(self, Scan *scan) noexcept:
        pass

    cdef void client_drained(self) noexcept:
        pass

    cdef bint may_retry(self, int kind) noexcept:
        return False

    cdef bint repeatable(self) noexcept:
        return False

    cdef Attempt twin(self):
        return None

    cdef void judge_outcome(self, tg_outcome *outcome) noexcept:
        pass

    cdef bint end_answer(self, int kind, str message) noexcept:
        return False

    cdef void idle(self) noexcept:
        pass

    def marked(self):
        """Its endpoint was marked down, or a better one up (lb.upstream.marks)."""
        cdef Waiter owner = self.owner        # which may lose its last reference within
        if owner is not None:
            owner.endpoint_marked(self)


cdef void take_slot(Attempt attempt, Pool pool, int endpoint, int charged, uint64_t now) noexcept:
    step(attempt, A_PICKED)
    attempt.pool = pool
    attempt.endpoint = endpoint
    attempt.picked_at = now
    attempt.charged = charged
    attempt.client_slow = False
    attempt.load = 0
    attempt.in_flight = 0
    if pool.costs is not None:
        attempt.load = pool.endpoints.outstanding(endpoint)
    if pool.marks is not None:
        pool.marks.enter(endpoint, attempt)
    if pool.policy.by_in_flight or pool.costs is not None:
        attempt.in_flight = <short>min(pool.endpoints.running(endpoint), MOST_IN_FLIGHT)


cdef uint64_t served(Attempt attempt, uint64_t now) noexcept:
    """The time of the endpoint's own: from when it had the whole request; 0 = it waited for the client to read."""
    if attempt.client_slow:
        return 0
    return now - max(attempt.picked_at, min(attempt.sent_at, now))


cdef void release(Attempt attempt, const tg_outcome *outcome, uint64_t now) noexcept:
    cdef Pool pool = attempt.pool
    cdef int endpoint = attempt.endpoint
    cdef uint64_t took = now - attempt.picked_at
    cdef uint64_t *words = pool.series[endpoint]
    cdef bint ok, begun = attempt.state == A_ANSWERING
    cdef int verdict = outcome.verdict
    # Servers that know the deadline say themselves that it has passed.
    cdef bint ran_out = outcome.late and (outcome.status == 504 or outcome.code == GRPC_DEADLINE_EXCEEDED)
    step(attempt, A_OVER)
    if pool.marks is not None:
        pool.marks.leave(endpoint, attempt)
    tg_add(&words[ANSWER_RECEIVED_BYTES], outcome.bytes_in)
    tg_add(&words[ANSWER_SENT_BYTES], outcome.bytes_out)
    if outcome.how == SESSION_ENDED:
        tg_add(&words[ANSWER_REQUESTS_OTHER], 1)
        pool.release(endpoint, now, 0, outcome.ok, 0, attempt.charged, 0)
        return
    count_attempt(words, outcome.status, outcome.code, outcome.verdict, took)
    if outcome.how == GIVEN_UP:
        pool.give_up(endpoint, now, took, attempt.charged)
        return
    if outcome.how == STOPPED:
        took = 0                          # what it has taken until then says little of its endpoint
    elif outcome.status == SWITCHING_PROTOCOLS:
        took = 0                          # it lasted for as long as its two ends liked
    elif pool.policy.limits and (ran_out or not outcome.answered):
        if ran_out or not begun:
            pool.abandoned(endpoint, now, took)
            if (ran_out or outcome.status == 504) and pool.endpoints.progress(endpoint) > attempt.picked_at:
                verdict = VERDICT_NONE    # it answered others meanwhile: it has much to do, and is not sick
        took = 0                          # a latency that was cut short is none
    elif pool.policy.limits:
        took = served(attempt, now)
    pool.judge(endpoint, verdict, attempt.picked_at, now)
    ok = outcome.ok and outcome.verdict <= VERDICT_GOOD   # what was refused took no time: nobody learns from that
    if ok:
        pool.tell_queue(endpoint, now, took, outcome.answered)
    pool.release(endpoint, now, took, ok, attempt.in_flight, attempt.charged, attempt.load)
