"""One request with its answer, from the route to the record. `docs/life-of-a-request.md` tells the same in words.

An exchange has an attempt at an endpoint, at times a second one beside it (its hedge), and a body source where the
request's body is not passed on as it comes. They know the exchange; it knows them by what is declared here and in
`lb.upstream.attempt`.
"""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t
from lb.shared.buckets cimport tg_verdict
from lb.net.buffer cimport tg_buffer
from lb.http.head cimport Field, Scan
from lb.net.poller cimport Timed
from lb.net.stream cimport iovec
from lb.endpoints.choice cimport Choice
from lb.proxy.exchange.affinity cimport tg_affinity
from lb.proxy.client.client cimport Client
from lb.proxy.routing.headers.forwarded cimport tg_ids
from lb.proxy.accept.listener cimport Listener
from lb.proxy.exchange.refusal cimport Refusal
from lb.proxy.routing.quota cimport QuotaUse
from lb.proxy.routing.stick cimport Tracked
from lb.proxy.routing.route cimport Route
from lb.proxy.routing.values.format cimport tg_values
from lb.telemetry.accesslog cimport tg_access
from lb.upstream.attempt cimport Attempt, ending
from lb.upstream.pool cimport Pool
from lb.upstream.queue cimport Waiter
from lb.upstream.excluded cimport tg_excluded


cdef enum:
    X_NEW = 0                         # the head is being looked at
    X_REQUEST                         # before an endpoint: the body source reads, or has asked the master instead
    X_QUEUED                          # no endpoint has room: it waits in the pool's queue
    X_ATTEMPT                         # an attempt is under way; its state says how far
    X_BACKOFF                         # an attempt has failed; the next one comes after a pause
    X_ANSWERING                       # the answer has begun: no retry, no status of our own any more
    X_UPGRADED                        # an upgrade was granted: bytes both ways (RFC 9110 section 7.8)
    X_DONE

cdef enum:
    CACHE_NONE = 0
    CACHE_HIT
    CACHE_MISS
    CACHE_COLLAPSED
    CACHE_BYPASS
    CACHE_STALE                       # past its freshness, while it is made anew
    CACHE_REVALIDATED
    CACHE_REFRESHED                   # nobody waits for it: it counts as no request of its route
    CACHE_STALE_IF_ERROR              # past its freshness, since the endpoints fail
    CACHE_NEGATIVE                    # an error that was kept

cdef enum:
    HEDGE_LOST = 1                    # indices into HEDGE_NAMES of the access log
    HEDGE_WON


# A bint, or a small number, in a byte. An exchange has to fit one of the interpreter's small blocks (512 bytes): one
# more costs every request a malloc.
ctypedef unsigned char flag


cdef class BodySource:
    """How the body of a request is read where more is to it than passing it on. An exchange without one is plain: its
    attempt gets each piece as it comes, and keeps it for a retry while that is small."""
    cdef bint any_endpoint            # whatever model the request names: it is no inference

    # Instead of `Attempt.begin`: the source has the attempt begin, or answers itself.
    cdef void begin(self, Exchange exchange, Scan *scan) noexcept
    # As Exchange.take_body, behind its limit.
    cdef void take(self, Exchange exchange, const iovec *spans, int count, size_t size, bint last) noexcept
    # The attempt has passed a piece on, in the form that the endpoint gets, or has put it into its queue.
    cdef void passed(self, Exchange exchange, const char *data, size_t size) noexcept
    # As Exchange.body_space.
    cdef char *space(self, Exchange exchange, size_t size) noexcept
    # What the request costs the pool's endpoints (Pool.costs), in units of their `one`.
    cdef int price(self, Exchange exchange, uint64_t now) noexcept
    # When the answer has to be there; NEVER = no matter.
    cdef uint64_t due(self, Exchange exchange) noexcept
    # The model that the request names, as far as that is known; None: none.
    cdef bytes model(self)
    # The model that it is an inference of, and its rows where the pool counts these; None: it is none. Empty: its model
    # is not known.
    cdef bytes counted(self, Exchange exchange, int64_t *rows)
    # The time has come that the exchange was armed for, and it is X_REQUEST. True: the source goes on.
    cdef bint on_time(self, Exchange exchange) noexcept
    # The exchange's attempt has taken an endpoint, and is about to be launched there.
    cdef void picked(self, Exchange exchange) noexcept
    # The answer of the exchange's attempt is taken; `last`: its head is all of it.
    cdef void answer_begins(self, Exchange exchange, bint last) noexcept
    # The attempt has ended well, and is about to be released.
    cdef void ended_well(self, Exchange exchange) noexcept
    # The answer to what it asked of the master (question.pxd): a gRPC status, its message and the reply.
    cdef void told(self, Exchange exchange, int status, str message, bytes reply) noexcept
    # The exchange has failed by the endpoints' fault, with a failure of `kind` (lb.failure) and this HTTP status, and
    # no answer has begun. True: the source has answered by what it had.
    cdef bint rescue(self, Exchange exchange, int kind, int status) noexcept
    # Fields that it adds to an error.
    cdef void append_fields(self, Exchange exchange, tg_buffer *head) noexcept
    # Nobody waits for the answer any more, or there will be none.
    cdef void leave(self, Exchange exchange) noexcept


cdef class AttemptTimer(Timed):
    """When a retry is due (X_BACKOFF), or else a hedge."""
    cdef Exchange exchange            # None: it is of no use any more
    cdef uint64_t waits_since         # where it is for a hedge: the attempt that may be late
    cdef uint64_t late_at             # from when on that attempt is late, whatever its endpoint does meanwhile


@cython.final
cdef class Exchange(Waiter):
    cdef Client client
    cdef Listener listener
    cdef Route route
    cdef Pool pool                    # None: the route answers itself
    cdef Attempt attempt              # the current one, or the last; None: the route answers itself
    cdef Attempt hedge                # the one beside it; None: none is under way
    cdef AttemptTimer attempt_timer   # None: neither a retry nor a hedge is planned
    cdef BodySource source            # None: the body is passed on as it comes
    cdef bytes wanted_model
    cdef bytes path_model             # that its path names an inference of, and no source reads; None: none
    cdef bytes granted                # lines of the answer that an authorization server has set; None: it set none
    # Texts of the route's response_fields (FieldRules.keep); behind them the Host of the request, where its
    # response_rewrite wants that; then, where it has some, its fields of the access log. None: there is nothing of it.
    cdef tuple kept
    cdef flag state
    cdef flag retries_left
    cdef flag attempts
    cdef flag version                 # of HTTP, times ten: how the request came
    cdef flag method
    cdef flag cache
    cdef flag hedged                  # whether it had a hedge, and what became of that: HEDGE_…; 0 = none
    cdef flag failure                 # the kind of the failure that `reason` is of, where we ended it; FAIL_NONE
    cdef flag grpc                    # SPEAKS_… of refusal.pxd: whether the client speaks gRPC, and in which form
    cdef flag http10
    cdef flag head_method
    cdef flag preflight               # a browser asks whether it may send a request (lb.proxy.routing.cors)
    cdef flag request_complete
    cdef flag wants_body              # the client may go on sending
    cdef flag idempotent              # repeating it does no harm
    cdef flag watched                 # the poller's next tick is to look whether it is late
    cdef flag explained               # EXPLAIN_… of sampler.pxd
    cdef flag agent_length            # of `target`, the part that is the User-Agent's
    cdef flag identity_length         # the identity's, at the end of `target`; 0 = none
    cdef short status
    cdef short cut                    # the status of the failure that cut the answer off, which counts; 0 = none did
    cdef short grpc_status            # that the endpoint said last; -1 = none
    cdef int last_endpoint            # index in the pool of the one that answered, or failed last; -1 = none was asked
    cdef tg_excluded *excluded         # those that failed before it
    cdef int cost                     # what it adds to the load of an endpoint; 0 = not weighed, or not yet
    cdef tg_affinity affinity
    cdef uint64_t key
    cdef uint64_t announced           # bytes of the request's body, where requests are weighed; 0 = not known
    cdef uint64_t bytes_in            # of the request's body
    cdef uint64_t bytes_out           # of the answer's body
    cdef uint64_t started             # monotonic ns
    cdef uint64_t first_byte_at
    cdef uint64_t expires             # the whole exchange's deadline; NEVER = none
    cdef uint64_t wait                # before the retry that was granted, ns
    cdef long pushback                # of the last answer, ms, or PUSHBACK_…
    # When the request was sent to the first endpoint, or its connect began, where there may be a hedge.
    cdef uint64_t waits_since
    # While it is `watched`: when there is to be a look, and its deadline as a Timed behind that.
    cdef uint64_t look_at
    cdef uint64_t limit
    cdef const char *reason           # why it ended other than well
    # Host, target, User-Agent, a method without number, and an identity, kept for the access log only; and an Origin
    # that may ask.
    cdef tg_buffer target
    cdef uint32_t host_length         # of it, the host's part
    cdef unsigned short method_length   # the method's, as much of it as the log keeps
    cdef unsigned short origin_length   # the origin's, before the identity; 0 = none
    cdef tg_ids *ids                  # from malloc; NULL where the listener asks for none
    cdef tg_verdict rate              # of the route's rate limit
    cdef QuotaUse quota_use           # of its quotas; None = it has none
    cdef Tracked tracked              # what it counts in of stick tables; None = in nothing

    cdef void move(self, int state) noexcept

    # What its client says.

    # The request's head has come (the scan's body spans follow through `take_body`).
    cdef void begin(self, Scan *scan) noexcept
    # A piece of the request's body, its spans `size` bytes together; `last` completes it.
    cdef void take_body(self, const iovec *spans, int count, size_t size, bint last) noexcept
    # Where the next `size` bytes of the request's body, which has a length, may be received; NULL: anywhere. They
    # come by `take_body` as all do.
    cdef char *body_space(self, size_t size) noexcept
    # Up to `size` bytes of it from the client's socket to where they go, past this process: as lb.net.splice's
    # `pass_through` says; behind PASS_LOST the exchange may be over.
    cdef Py_ssize_t pass_body(self, size_t size) noexcept
    # The scan's trailers, which come before the last piece is told.
    cdef void take_trailers(self, Scan *scan) noexcept
    # The client left before its answer was complete.
    cdef void client_gone(self) noexcept
    # The client has taken what waited for it.
    cdef void client_drained(self) noexcept
    # The batch ends for which the client has put the launch off.
    cdef void launch_now(self) noexcept
    # The client's address: the peer's, or what trusted proxies say.
    cdef const char *source_address(self, size_t *n) noexcept
    # Within the quotas that the route has. False: answered with 429.
    cdef bint take_quotas(self, const Scan *scan) noexcept
    # Within the rate limit that the route has; `key` is what the text of its key says. False: answered with 429.
    cdef bint admit(self, Scan *scan, const char *key, size_t key_length) noexcept

    # The endpoint.

    cdef uint64_t find_key(self, Scan *scan) noexcept
    # Finds the endpoint that the client stays with, by the pool's cookie or by what it learned.
    cdef void read_affinity(self, Scan *scan) noexcept
    # From now on only endpoints will do where this model is ready, if the pool knows of it.
    cdef void want_model(self, bytes name) noexcept
    # There are none, but others that take requests.
    cdef void model_not_ready(self) noexcept
    # The request belongs to the sequence `key` of the pool. False: that is not open, and the exchange has failed.
    cdef bint join_sequence(self, uint64_t key, bint start, bint end) noexcept
    cdef void fail_lost(self) noexcept
    # An endpoint by the pool's policy, for the attempt, at once or when it is its turn; or the exchange fails.
    cdef void pick(self) noexcept
    # What it costs the pool's endpoints (Pool.costs), in units of their `one`.
    cdef int price(self, uint64_t now) noexcept
    # What the selection of an endpoint of its pool goes by.
    cdef Choice new_choice(self, uint64_t now)
    # The endpoint, counted in flight, by what binds the request or by the policy; or TAKEN_….
    cdef int find_endpoint(self, Choice choice) noexcept
    cdef int choose(self, Choice choice) noexcept
    # What the policy chooses.
    cdef int acquire_any(self, Choice choice) noexcept
    cdef void picked(self, int endpoint) noexcept
    cdef void leave_queue(self, bint timed_out) noexcept
    # When its answer has to be there; NEVER = no matter.
    cdef uint64_t due(self) noexcept
    cdef bint is_late(self, uint64_t due) noexcept
    # Waits for the endpoint: for its response timeout, and never past the exchange's own deadline.
    cdef void arm_wait(self) noexcept
    # The request is sent, and its answer is what the exchange waits for.
    cdef bint awaits_answer(self) noexcept

    # What its attempts say. `attempt` is its own or its hedge.

    # All of the request is with the endpoint of its own attempt, or is only waiting for the connection: from now on
    # there may be a hedge.
    cdef void watch(self) noexcept
    # The answer of its own attempt is taken.
    cdef void own_answer(self) noexcept
    # The answer of its hedge begins, with `status` and gRPC status `code` (-1: none yet). True: it is taken, and the
    # hedge is the exchange's own attempt from now on. False: it is not `good`, and the hedge is over.
    cdef bint hedge_answers(self, bint good, int status, int code) noexcept
    # It has failed by itself. True: another goes on, or its failure does not matter. False: `fail` has to follow.
    cdef bint attempt_failed(self, Attempt attempt, int kind) noexcept
    # What was sent was refused unread, and is sent to the same endpoint again.
    cdef void sent_again(self, Attempt attempt) noexcept
    # What the endpoint reports of its load, among the fields of its answer.
    cdef void find_report(self, const Field *fields, int count) noexcept
    # What the route and its pool add to the head of an answer.
    cdef int append_endpoint(self, tg_buffer *head) noexcept
    # The route's changes to the fields of an endpoint's answer, where it has some. 0, or -1: the scan has no room.
    cdef int change_answer(self, Scan *scan) noexcept
    cdef bytes asked_host(self)
    cdef bytes answering(self)
    # Its lines for an answer of our own, likewise. 0 or -1 (no memory).
    cdef int append_changes(self, tg_buffer *head) noexcept
    # What the route says of other origins, where it says something; `preflight`: to a preflight request.
    cdef int append_cors(self, tg_buffer *head, bint preflight) noexcept
    # The attempt is over, its answer with it: gives the endpoint back. `ok`: that did what it was asked.
    cdef void let_go(self, bint ok) noexcept
    # `code` as a gRPC status, where the endpoints are called by gRPC; else -1.
    cdef int code_of_call(self, int code) noexcept

    # Retries.

    # Whether a failure of `kind` (RETRY_…, several or 0), or with gRPC's `code` (or -1), may be followed by a retry.
    cdef bint retry_named(self, int kind, int code) noexcept
    # Whether there is to be one. It is counted then, and `next_attempt` has to follow.
    cdef bint retry_granted(self, int kind, int code) noexcept
    cdef void next_attempt(self) noexcept
    # Another attempt although this one's connection is well, where the route asks for that: with `status` it has
    # failed. False: it has to do.
    cdef bint retry_attempt(self, int kind, int status) noexcept

    # Hedges.

    # The same where a hedge is by the way: nothing is planned before a tick of the poller's, by which time most have
    # their answer. `arm_wait`, or `arm_look` where the deadline stays, has to follow.
    cdef void watch_by_tick(self) noexcept
    cdef void arm_look(self) noexcept
    # The tick has come, or the deadline. True: there was a look, and the deadline is still to come.
    cdef bint look_by_tick(self) noexcept
    cdef void stop_watching(self) noexcept
    # Sets the timer for the hedge of a request that has waited for its answer since then.
    cdef void plan_hedge(self, uint64_t since) noexcept
    cdef uint64_t unusual(self) noexcept
    cdef uint64_t stuck_at(self) noexcept
    cdef void learn_silence(self, uint64_t now) noexcept
    cdef void start_hedge(self) noexcept
    # Another endpoint than its own, of `pool`, which is its own as it is now; -1 = none has room. `charged`: what that
    # adds to the endpoint's load.
    cdef int choose_hedge(self, Pool pool, uint64_t now, int *charged) noexcept
    # Its own attempt was let go of: True when a hedge is under way, which is its own from now on.
    cdef bint promote_hedge(self) noexcept
    cdef void drop_hedge(self) noexcept
    # The hedge is over, by `how` (enum ending).
    cdef void release_hedge(self, ending how, int status, int code) noexcept
    cdef void drop_timer(self) noexcept

    # The end.

    # Ends the exchange by a failure of this kind (lb.failure); `message` tells the client, unless an answer has begun.
    cdef void fail(self, int kind, str message) noexcept
    # The same with another status than the kind has.
    cdef void fail_with(self, int kind, int status, str message) noexcept
    # Says why the exchange ends, in the record and in the route's counters.
    cdef void note_failure(self, int kind) noexcept
    # Stops what runs at the endpoint, without a callback.
    cdef void cancel(self) noexcept
    # The answer is complete.
    cdef void end(self) noexcept
    cdef void record(self) noexcept
    # Whether the answer was a good one.
    cdef bint succeeded(self) noexcept
    # The gRPC status that the client was given; -1 = none.
    cdef int final_grpc_status(self) noexcept
    # The same for counters: a client that left counts as CANCELLED, an answer without a status as UNKNOWN.
    cdef int counted_grpc_status(self) noexcept
    # The model that the request names, as far as that is known; None: none.
    cdef bytes named_model(self)
    # Whether a record will be kept of it: the log is on, or its trace is recorded.
    cdef bint recorded(self) noexcept


# The verdict on an attempt that speaks by statuses of HTTP (lb.upstream.load.outlier).
cdef int verdict_by_status(Exchange exchange, bint ok) noexcept


# How long an exchange waits for its endpoint, and what becomes of it then.

# Longest wait for an answer to begin, in nanoseconds; 0 = none. The route's own goes before its pool's.
cdef uint64_t limit_of_answer(Exchange exchange) noexcept
# The same for a single try, which the route may give up sooner.
cdef uint64_t limit_of_attempt(Exchange exchange) noexcept
# The time has come that the exchange was armed for: its turn in the queue did not, its request's rest, or its answer.
cdef void time_is_over(Exchange exchange) noexcept


# What is said to a client whose exchange gets no endpoint, or fails.

# No endpoint for it, and no room in the queue (any more): fails it by `why`, Q_….
cdef void refuse_exchange(Exchange exchange, int why) noexcept
# An answer of our own with `status`: says when to come back, why it was this endpoint, and what other origins may.
cdef Refusal refusal_of(Exchange exchange, int status, str message)
# What an error page may say of the exchange and its error, in `values`, which are all zero, for as long as `message`
# and `text`, 16 bytes, live.
cdef void gather_error(tg_values *values, Exchange exchange, int status, const char *message, size_t n,
                       char *text) noexcept


# The record of an exchange that is over: the series of its route and endpoint, and a line of the access log.

# In its route's series, as one that took `duration` nanoseconds.
cdef void count_exchange(Exchange exchange, uint64_t duration) noexcept
# What the access log, and the span of a sampled trace, say of it. Dropped when the ring has no room.
cdef void log_exchange(Exchange exchange, uint64_t duration) noexcept


# Explanations of exchanges that `explained` says are to have one, while they run. Plain Python, as few are.

# An endpoint other than `exclude` is about to be chosen.
cdef void before_choice(Exchange exchange, Choice choice, int exclude) noexcept
# This one was (an index of the pool; counted in flight by now), or none (TAKEN_…). `beside`: for a second attempt
# beside that at this address, else None.
cdef void after_choice(Exchange exchange, uint64_t now, int found, str beside) noexcept
# Exchange.choose between these two.
cdef int explain_choice(Exchange exchange, Choice choice) noexcept
# There is none for it: `why` is Q_….
cdef void no_choice(Exchange exchange, uint64_t now, int why) noexcept
# X-Tidegate-Explain, where the client asked for it.
cdef void append_explanation(Exchange exchange, tg_buffer *head) noexcept
# For its line in the access log.
cdef void explain_record(Exchange exchange, tg_access *record) noexcept
# It is over.
cdef void forget_explanation(Exchange exchange) noexcept


# What binds an exchange to an endpoint (lb.proxy.exchange.affinity).

# An endpoint's answer is taken: learns what its fields say of a session. `status` is as of HTTP, 500 where gRPC's is
# not OK.
cdef void learn_session(Exchange exchange, int status, const Field *fields, int count) noexcept
# Whether its sequence lets it go to another endpoint than one that has not processed it: only the first request may,
# since nothing of the sequence is anywhere then.
cdef bint may_leave(Exchange exchange) noexcept
# Its endpoint is not to be had. True: it goes on at another, as it is the first of its sequence, or as the first has
# taken the sequence there meanwhile, which was at this endpoint in vain itself.
cdef bint goes_on(Exchange exchange) noexcept
