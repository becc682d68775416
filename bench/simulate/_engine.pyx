"""Workers, servers and the network between them, in simulated time.

What a worker does with a request is the daemon's own code: exchange, pool, policy, queue, retries, hedges, outlier
detection. Simulated are its ends: a client that notes its answer (`Request`), an attempt that reaches a server after
the network's delay (`SimulatedAttempt`), and the server, which is the emulator's model (`Server`).
"""

from libc.stdint cimport UINT64_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset
from lb.failure cimport (
    CLIENT_GONE, FAIL_CONNECT, FAIL_MODEL_ERROR, FAIL_REFUSED, FAIL_RESET, RETRY_5XX, RETRY_RESET, failure_of,
    http_of_grpc, is_good, is_retryable, verdict_of_grpc,
)
from lb.http.head cimport Scan, scan_begin
from lb.net.buffer cimport tg_buffer
from lb.net.stream cimport iovec
from lb.proxy.accept.listener cimport Acceptor, Listener
from lb.proxy.client.client cimport Client
from lb.proxy.exchange.exchange cimport (
    X_ANSWERING, BodySource, Exchange, verdict_by_status,
)
from lb.proxy.exchange.refusal cimport SPEAKS_GRPC, SPEAKS_HTTP
from lb.proxy.routing.actions cimport admit as apply_actions
from lb.proxy.routing.route cimport Route
from lb.shared.segment cimport Segment, tg_add
from lb.shared.segment_words cimport SERIES_STARTED
from lb.telemetry.accesslog cimport AccessLog
from lb.upstream.attempt cimport A_ANSWERING, A_SENDING, A_SENT, Attempt, step, tg_outcome
from lb.upstream.connections.deferred_release cimport DeferringChannel
from lb.upstream.load.cost cimport UNIT_BYTES, PoolCosts
from lb.upstream.load.load_report cimport tg_load
from lb.upstream.load.prober cimport PROBE_ANSWERED as ANSWERED, PROBE_LATE, Probe, Prober
from lb.upstream.pool cimport POOL_GRPC, POOL_OIP, Pool
from lb.upstream.queue cimport PoolQueue
from bench.emulator.model cimport Executor, Job
from bench.simulate._clock cimport (
    ANSWER_ARRIVES, CALL_ARRIVES, CALL_CANCELLED, CALL_DUE, CLIENT_LEAVES, PROBE_ANSWERED, PROBE_ARRIVES,
    REQUEST_COMES, SERVER_DUE, TIMERS_DUE,
    WAKEUP_COMES, Agenda, Callback, SimulatedPoller, SimulatedTimers, SimulatedWakeups,
)


from lb.proxy.exchange.hedge import HedgeTools
from lb.proxy.routing.tables import make_routes

cdef enum:
    GRPC_CANCELLED = 1
    GRPC_DEADLINE_EXCEEDED = 4
    GRPC_UNAVAILABLE = 14
    MOST_SLOTS = 100_000
    FIRST_ROOM = 4096
    REPORT_NS = 100_000_000           # over which a server takes the mean of what it reports
    CUT = -1                          # status of an answer that was broken off
    UNFINISHED = -2                   # of a request without an answer at the end

cdef enum outcome_of_call:
    CALL_OK = 0
    CALL_UNAVAILABLE
    CALL_EXHAUSTED                    # the server's queue is full
    CALL_ERROR
    CALL_LIMITED
    CALL_RESET

# By outcome, as the emulator answers (bench.emulator.answers).
cdef int[6] HTTP = [200, 503, 503, 500, 429, 0]
cdef int[6] GRPC = [0, 14, 8, 13, 8, 14]
cdef dict FAILURES = {
    "unavailable": CALL_UNAVAILABLE, "error": CALL_ERROR, "limited": CALL_LIMITED, "reset": CALL_RESET,
}

# The head of every request: nothing of it has a say.
cdef Scan HEAD
memset(&HEAD, 0, sizeof(HEAD))
scan_begin(&HEAD)
HEAD.complete = True


cdef struct tg_record:
    uint64_t intended                 # ns: when the request was to be sent
    uint64_t ended                    # when its answer was with the client
    int status                        # of HTTP, as the client is told; CUT, UNFINISHED; CLIENT_GONE where it left
    int reason                        # index into Simulation.reasons; 0 = none
    int kind
    int endpoint                      # the server that was asked last; -1 = none was
    int attempts
    int unused                        # which the compiler would add


cdef class Server:
    """A server of the emulator's model. `failures` are pairs of a Span and how requests fail in it."""
    cdef Simulation simulation
    cdef readonly int index
    cdef Executor executor
    cdef tuple failures
    cdef uint64_t armed               # when its next SERVER_DUE comes
    cdef readonly bint by_items
    cdef readonly long in_flight      # calls that its balancers have there
    cdef readonly long most_in_flight
    cdef readonly long received
    cdef readonly long answered
    cdef int slots
    # What it reports, and of what moment: busy ns of its slots and answers until then.
    cdef uint64_t reported_at
    cdef int64_t busy_then
    cdef long answered_then
    cdef double utilization
    cdef double rate

    def __init__(
        self, Simulation simulation not None, int index, Executor executor not None,
        failures: Sequence[tuple[Any, str]], bint by_items
    ) -> None:
        self.simulation = simulation
        self.index = index
        self.executor = executor
        self.failures = tuple(failures)
        self.by_items = by_items
        self.armed = UINT64_MAX
        self.slots = <int>min(executor.slots, <Py_ssize_t>MOST_SLOTS)

    def forget_peak(self) -> None:
        """The most in flight is looked for anew."""
        self.most_in_flight = self.in_flight

    cdef int failing(self, uint64_t now) except -1:
        for span, how in self.failures:
            if span.at(now)[0]:
                return FAILURES[how]
        return CALL_OK

    cdef int arrive(self, Call call) except -1:
        cdef uint64_t now = self.simulation.agenda.now
        cdef int failing
        self.advance()
        self.received += 1
        failing = self.failing(now) if self.failures else CALL_OK
        if failing:
            self.reply(call, failing)
            return 0
        call.items = call.units if self.by_items else 1
        if not self.executor.arrive(call, <int64_t>now):
            self.reply(call, CALL_EXHAUSTED)
        self.advance()
        return 0

    cdef int cancel(self, Call call) except -1:
        self.advance()
        self.executor.cancel(call, <int64_t>self.simulation.agenda.now)
        self.advance()
        return 0

    cdef int advance(self) except -1:
        """Answers what is finished by now."""
        cdef uint64_t now = self.simulation.agenda.now, due
        if <uint64_t>self.executor.due <= now:
            for call in self.executor.finished(<int64_t>now):
                self.answered += 1
                self.reply(<Call>call, CALL_OK)
        due = <uint64_t>self.executor.due
        if due < self.armed and due < <uint64_t>1 << 62:
            self.armed = due
            self.simulation.agenda.add(due, SERVER_DUE, self)
        return 0

    cdef int report(self) except -1:
        """The share of its slots that was busy of late, and its answers per second."""
        cdef uint64_t now = self.simulation.agenda.now
        cdef double passed = <double>(now - self.reported_at)
        cdef int64_t busy
        if passed < REPORT_NS:
            return 0
        busy = self.executor.busy(<int64_t>now)
        self.utilization = min(<double>(busy - self.busy_then) / (passed * self.slots), 1.0)
        self.rate = (self.answered - self.answered_then) * 1e9 / passed
        self.reported_at = now
        self.busy_then = busy
        self.answered_then = self.answered
        return 0

    cdef int reply(self, Call call, int outcome) except -1:
        call.outcome = outcome
        if self.simulation.reports:
            self.report()
        return self.simulation.agenda.add(self.simulation.agenda.now + self.simulation.delay, ANSWER_ARRIVES, call)


cdef class Call(Job):
    """A request of an attempt at a server."""
    cdef SimulatedAttempt attempt     # None: nobody waits for the answer
    cdef Server server
    cdef int units
    cdef int outcome


cdef class SimulatedAttempt(Attempt):
    """As Http1Attempt, or for pools that are called by gRPC as InferenceAttempt, without their bytes."""
    cdef Call call                    # None: none is under way

    cdef bint begin(self, Scan *scan) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        if exchange.pool.protocol == POOL_OIP:
            exchange.idempotent = True
        return True

    cdef void launch(self) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        step(self, A_SENDING)
        step(self, A_SENT)
        self.sent_at = exchange.client.poller.now
        (<Request>exchange.client).simulation.send(self, <Request>exchange.client)
        if self is not exchange.attempt:
            return
        exchange.grpc_status = -1
        exchange.arm_wait()
        if exchange.route.hedge is not None:
            exchange.watch()
            exchange.arm_look()

    cdef void stop(self) noexcept:
        cdef Call call = self.call
        if call is not None:
            self.call = None
            call.attempt = None
            call.server.in_flight -= 1
            call.server.simulation.agenda.add(
                call.server.simulation.agenda.now + call.server.simulation.delay, CALL_CANCELLED, call)

    cdef bint by_code(self) noexcept:
        return self.pool.protocol == POOL_OIP or self.pool.protocol == POOL_GRPC

    cdef bint repeatable(self) noexcept:
        return (<Exchange>self.owner).idempotent

    cdef Attempt twin(self):
        return SimulatedAttempt.__new__(SimulatedAttempt)

    cdef bint may_retry(self, int kind) noexcept:
        cdef int rule = failure_of(kind).retry
        if kind != FAIL_CONNECT and kind != FAIL_REFUSED and (kind != FAIL_RESET or not self.repeatable()):
            return False
        if kind == FAIL_RESET and self.by_code():
            rule = RETRY_RESET | RETRY_5XX
        return (<Exchange>self.owner).retry_granted(rule, -1)

    cdef void judge_outcome(self, tg_outcome *outcome) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        cdef int code = exchange.grpc_status
        outcome.code = -1
        if not self.by_code():
            outcome.verdict = verdict_by_status(exchange, outcome.ok)
            return
        if outcome.ok and code >= 0 and exchange.status != CLIENT_GONE:
            outcome.verdict = verdict_of_grpc(code)
        else:
            outcome.verdict = verdict_by_status(exchange, outcome.ok)
        if exchange.status == CLIENT_GONE:
            outcome.code = GRPC_CANCELLED
        elif code >= 0:
            outcome.code = code
        else:
            outcome.code = GRPC_DEADLINE_EXCEEDED if exchange.status == 504 else GRPC_UNAVAILABLE

    cdef void answered(self, int outcome) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        cdef Server server = self.call.server if self.call is not None else None
        self.call = None
        if exchange is None:
            return
        if self.pool.policy.reads_reports and server is not None and server.utilization > 0.0:
            self.pool.endpoints.set_report(self.endpoint, server.utilization, server.rate, 0.0,
                                           exchange.client.poller.now)
        if outcome == CALL_RESET:
            if not exchange.attempt_failed(self, FAIL_RESET):
                exchange.fail(FAIL_RESET, "the server closed the connection without an answer")
        elif self.by_code():
            self.answered_by_code(exchange, GRPC[outcome])
        else:
            self.answered_by_status(exchange, HTTP[outcome])

    cdef void answered_by_status(self, Exchange exchange, int status) noexcept:
        if self is exchange.hedge and not exchange.hedge_answers(is_good(status), status, -1):
            return
        if is_retryable(status) and exchange.retry_attempt(RETRY_5XX, status):
            return
        if exchange.route.hedge is not None:
            exchange.own_answer()
        exchange.status = <short>status
        exchange.first_byte_at = exchange.client.poller.now
        step(self, A_ANSWERING)
        exchange.move(X_ANSWERING)
        exchange.end()

    cdef void answered_by_code(self, Exchange exchange, int code) noexcept:
        cdef bint going = code == GRPC_UNAVAILABLE
        if self is exchange.hedge and not exchange.hedge_answers(
                code == 0, http_of_grpc(code) if code else 200, code):
            return
        exchange.grpc_status = <short>code
        if code == 0:
            if exchange.route.hedge is not None:
                exchange.own_answer()
            exchange.status = 200
            exchange.let_go(True)
            exchange.record()
            exchange.client.respond_whole(200, NULL, NULL, 0)
            return
        exchange.status = <short>http_of_grpc(code)
        exchange.let_go(not going)
        if (going or exchange.route.retry is not None and exchange.route.retry.names_code(code)) and (
                exchange.promote_hedge()):
            return
        if self.repeatable() and exchange.retry_granted(RETRY_RESET | RETRY_5XX if going else 0, code):
            exchange.next_attempt()
            return
        exchange.fail_with(FAIL_MODEL_ERROR, http_of_grpc(code), "the server refused")


cdef class SimulatedProbe(Probe):
    """A question to a server how many requests are there; a stall holds the answer up, as it does a check's."""
    cdef Server server
    cdef SimulatedPoller poller
    cdef uint64_t deadline
    cdef double in_flight             # requests there; below 0: the answer is too late

    cdef bint send(self, uint64_t deadline) noexcept:
        self.deadline = deadline
        self.poller.agenda.add(self.poller.agenda.now + self.server.simulation.delay, PROBE_ARRIVES, self)
        return True

    cdef int arrive(self) except -1:
        cdef uint64_t now = self.poller.agenda.now
        cdef uint64_t back = <uint64_t>self.server.executor.timeline.clear(now) + self.server.simulation.delay
        self.in_flight = self.server.executor.in_flight() if back <= self.deadline else -1.0
        return self.poller.agenda.add(min(back, self.deadline), PROBE_ANSWERED, self)

    cdef void come(self) noexcept:
        cdef tg_load load
        memset(&load, 0, sizeof(load))
        load.rif = self.in_flight
        load.latency_ms = -1.0
        self.poller.begin_batch()
        self.finish(ANSWERED if self.in_flight >= 0.0 else PROBE_LATE, &load if self.in_flight >= 0.0 else NULL)
        self.poller.end_batch()


cdef class SimulatedBody(BodySource):
    """What a request of a pool with `cost` costs, as InferenceBody has it."""
    cdef int units

    cdef void begin(self, Exchange exchange, Scan *scan) noexcept:
        exchange.key = exchange.find_key(scan)
        if exchange.attempt.begin(scan):
            exchange.pick()

    cdef double amount(self, PoolCosts costs) noexcept:
        return costs.units_of_bytes(<uint64_t>self.units * 1024) if costs.unit == UNIT_BYTES else <double>self.units

    cdef int price(self, Exchange exchange, uint64_t now) noexcept:
        cdef PoolCosts costs = exchange.pool.costs
        return costs.price(self.amount(costs), costs.model_key(b"model", 5), now)

    cdef void ended_well(self, Exchange exchange) noexcept:
        cdef PoolCosts costs = exchange.pool.costs
        cdef Attempt attempt = exchange.attempt
        cdef uint64_t now = exchange.client.poller.now
        cdef uint64_t key
        if costs is None or exchange.grpc_status != 0:
            return
        key = costs.model_key(b"model", 5)
        if key:
            costs.learn(key, b"model", 5, self.amount(costs), now - attempt.picked_at, attempt.charged, attempt.load,
                        now)


cdef class Request(Client):
    """A request with its client, which has one at a time."""
    cdef Simulation simulation
    cdef Exchange exchange            # None: it is over
    cdef uint64_t intended
    cdef int kind
    cdef int units

    cdef void respond_whole(self, int status, const tg_buffer *head, const iovec *parts, int count) noexcept:
        self.simulation.over(self, status)

    cdef void respond_end(self) noexcept:
        self.simulation.over(self, self.exchange.status)

    cdef void abort(self) noexcept:
        self.simulation.over(self, CUT)

    cdef size_t backlog(self) noexcept:
        return 0


cdef class Worker:
    """A worker of a daemon: the pools and routes of its plan over its column of the segment. `wakeups` are those of all
    workers of the daemon, to which it adds its own; one takes `wakeup_ns`."""
    cdef Simulation simulation
    cdef readonly Segment segment
    cdef SimulatedPoller poller
    cdef SimulatedWakeups wakeups
    cdef object tools
    cdef Listener listener
    cdef dict queues
    cdef readonly list pools          # type: list[Any]
    cdef tuple routes                 # empty before the first plan

    def __init__(
        self, Simulation simulation not None, Segment segment not None, wakeups: list[Any], uint64_t wakeup_ns
    ) -> None:
        self.simulation = simulation
        self.segment = segment
        self.poller = SimulatedPoller(simulation.agenda)
        self.wakeups = SimulatedWakeups(self.poller, segment.worker, wakeups, wakeup_ns)
        wakeups.append(self.wakeups)
        self.tools = HedgeTools(SimulatedTimers(self.poller))
        self.queues = {}
        self.pools = []
        self.routes = ()

    def close(self) -> None:
        """Its column of the segment is let go of; nothing happens in it any more."""
        self.segment.close()

    def adopt(self, plan: Any) -> None:
        """Takes a plan into use, as lb.proxy.proxy.Proxy does. Requests under way go on in the pools that they are
        in."""
        cdef Pool pool, old
        cdef Py_ssize_t i
        listener = plan.listeners[0]
        pools = [self.make_pool(one) for one in plan.pools]
        made = finished(make_routes(listener.routes, pools, set(), self.segment, self.tools, None))
        for i in range(len(pools)):
            pool = <Pool>pools[i]
            if pool.queue is not None:
                pool.queue.adopt(pool, plan.pools[i].queue)
            elif pool.name in self.queues:
                (<PoolQueue>self.queues.pop(pool.name)).release(pool)
            for old in self.pools:
                if old.name == pool.name:
                    old.newer = pool
        for old in self.pools:
            if old.prober is not None:
                old.prober.stop()
        for pool in pools:
            if pool.prober is not None:
                pool.prober.start()
        self.pools = pools
        self.routes = tuple(made.routes)
        if self.listener is None:
            self.listener = Listener(self.poller, listener, self.segment, made.table, Acceptor(), set(), AccessLog(-1))
        else:
            self.listener.update(listener, self.segment, made.table)

    def make_pool(self, plan):
        queue = self.queues.get(plan.name)
        if plan.queue is not None and queue is None:
            queue = self.queues[plan.name] = PoolQueue(self.poller, self.segment, self.wakeups, plan.name)
        channels = [DeferringChannel() for _ in plan.endpoints]
        pool = Pool(plan, self.segment, channels, queue if plan.queue is not None else None)
        if self.simulation.reports:
            self.add_prober(pool)
        return pool

    cdef int add_prober(self, Pool pool) except -1:
        """As lb.upstream.load.probe_calls has it."""
        cdef SimulatedProbe probe
        cdef int i
        if pool.policy.probes is None:
            return 0
        probes = []
        for i in range(pool.endpoints.size):
            probe = SimulatedProbe.__new__(SimulatedProbe)
            probe.index = i
            probe.words = pool.series[i]
            probe.poller = self.poller
            probe.server = <Server>self.simulation.servers[pool.endpoints.addresses[i]]
            probes.append(probe)
        pool.prober = Prober(self.poller, pool.name, pool.policy, probes)
        return 0

    cdef Exchange admit(self, Request request, int route_index):
        """As lb.proxy.exchange.admission.Admission."""
        cdef Exchange exchange = Exchange.__new__(Exchange)
        cdef Attempt attempt = SimulatedAttempt.__new__(SimulatedAttempt)
        cdef Route route = <Route>self.routes[route_index]
        cdef Pool pool = route.pool
        cdef SimulatedBody body
        request.poller = self.poller
        request.listener = self.listener
        request.exchange = exchange
        attempt.owner = exchange
        exchange.attempt = attempt
        exchange.grpc = SPEAKS_GRPC if pool.protocol == POOL_GRPC else SPEAKS_HTTP
        if pool.costs is not None:
            body = SimulatedBody.__new__(SimulatedBody)
            body.units = request.units
            exchange.source = body
        tg_add(&route.series[SERIES_STARTED], 1)
        exchange.started = self.poller.now
        exchange.client = request
        exchange.listener = self.listener
        exchange.route = route
        exchange.pool = pool
        exchange.retries_left = route.retry.attempts if route.retry is not None else pool.retries
        exchange.version = 20 if pool.protocol == POOL_GRPC else 11
        exchange.method = request.simulation.method
        exchange.request_complete = True
        if route.timeout:
            exchange.expires = exchange.started + route.timeout
            self.poller.arm(exchange, exchange.expires)
        return exchange

    cdef void take(self, Request request, int route_index) noexcept:
        cdef Exchange exchange
        self.poller.begin_batch()
        exchange = self.admit(request, route_index)
        if not exchange.route.acts or apply_actions(exchange, &HEAD):
            exchange.begin(&HEAD)
        self.poller.end_batch()


cdef object finished(generator):
    """What a generator returns."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


cdef class Simulation:
    """Requests from clients over daemons to servers. `delay` is the network's between any two of them, ns; `seed` is
    that of which worker gets which request; `method` is HTTP's by its number of llhttp. With `reports`, servers tell of
    their load, with answers and to probes.

    `daemons`, each the list of its workers, and `servers`, by the address that plans name them by, are to be filled in.
    `reasons` are those of failures; the first is "", none.
    """
    cdef readonly Agenda agenda
    cdef readonly list daemons        # type: list[list[Worker]]
    cdef readonly dict servers        # type: dict[str, Server]
    cdef readonly list reasons        # type: list[str]
    cdef dict reason_numbers
    cdef uint64_t delay
    cdef uint64_t state               # of the random numbers
    cdef unsigned char method
    cdef bint reports
    cdef tg_record *records
    cdef size_t count
    cdef size_t room
    cdef size_t under_way
    cdef readonly uint64_t happenings

    def __init__(self, uint64_t now, uint64_t delay, uint64_t seed, int method, bint reports=False) -> None:
        self.agenda = Agenda(now)
        self.daemons = []
        self.servers = {}
        self.reasons = [""]
        self.reason_numbers = {}
        self.delay = delay
        self.state = seed
        self.method = <unsigned char>method
        self.reports = reports

    def __dealloc__(self):
        free(self.records)

    @property
    def now(self) -> int:
        """ns"""
        return self.agenda.now

    def at(self, uint64_t when, function: Callable[[], None]) -> None:
        """`function` is called at `when` (ns)."""
        self.agenda.add(when, CALL_DUE, Callback(function))

    def clean(self) -> None:
        """It is over: nothing happens any more, and nobody refers to it."""
        self.agenda.clear()
        self.daemons = []
        self.servers = {}

    cdef uint32_t below(self, uint32_t n) noexcept:
        """A random number below n (SplitMix64: Steele, Lea, Flood 2014)."""
        cdef uint64_t z
        self.state += 0x9E3779B97F4A7C15ULL
        z = self.state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL
        return <uint32_t>(((z ^ (z >> 31)) >> 32) * n >> 32)

    def run(self, schedule: Any, kinds: Sequence[tuple[int, int, int]], uint64_t end) -> int:
        """Sends a request at each moment of `schedule` (ns, ascending), of the `kinds` in turn: tuples of a route's
        number, of units of work, and of the ns after which the client leaves (0: never). Ends when all are answered,
        or at `end`. Raises ValueError where nobody is there to send to, or where that route is not."""
        cdef const int64_t[:] times = schedule
        cdef size_t sent = 0, total = <size_t>times.shape[0]
        cdef int what
        cdef object who
        cdef list routes = [each[0] for each in kinds]
        cdef list units = [each[1] for each in kinds]
        cdef list patience = [each[2] for each in kinds]
        cdef int count = <int>len(kinds), kind
        cdef Request request
        if count == 0 or not all(self.daemons) or not self.daemons:
            raise ValueError("requests need a kind, and workers to go to")
        if not 0 <= min(routes) <= max(routes) < min(
                [len((<Worker>worker).routes) for workers in self.daemons for worker in workers]):
            raise ValueError("a kind of request has a route that there is not")
        self.make_room(total)
        if total:
            self.agenda.add(<uint64_t>times[0] + self.delay, REQUEST_COMES, self)
        while sent < total or self.under_way:
            who = self.agenda.take(end, &what)
            if who is None:
                break
            self.happenings += 1
            if what == REQUEST_COMES:
                kind = <int>(sent % <size_t>count)
                request = Request.__new__(Request)
                request.simulation = self
                request.intended = <uint64_t>times[sent]
                request.kind = kind
                request.units = units[kind]
                sent += 1
                if sent < total:
                    self.agenda.add(<uint64_t>times[sent] + self.delay, REQUEST_COMES, self)
                if patience[kind]:
                    self.agenda.add(request.intended + <uint64_t>patience[kind] + self.delay, CLIENT_LEAVES, request)
                self.under_way += 1
                self.any_worker().take(request, routes[kind])
            else:
                self.happen(what, who)
        return sent

    cdef Worker any_worker(self):
        cdef list workers = <list>self.daemons[self.below(<uint32_t>len(self.daemons))]
        return <Worker>workers[self.below(<uint32_t>len(workers))]

    cdef int happen(self, int what, object who) except -1:
        if what == ANSWER_ARRIVES:
            self.bring(<Call>who)
        elif what == CALL_ARRIVES:
            (<Call>who).server.arrive(<Call>who)
        elif what == SERVER_DUE:
            (<Server>who).armed = UINT64_MAX
            (<Server>who).advance()
        elif what == CALL_CANCELLED:
            (<Call>who).server.cancel(<Call>who)
        elif what == CLIENT_LEAVES:
            self.leave(<Request>who)
        elif what == PROBE_ARRIVES:
            (<SimulatedProbe>who).arrive()
        elif what == PROBE_ANSWERED:
            (<SimulatedProbe>who).come()
        elif what == TIMERS_DUE:
            (<SimulatedTimers>who).ring_now()
        elif what == WAKEUP_COMES:
            (<SimulatedWakeups>who).come()
        elif (<Callback>who).function is not None:
            (<Callback>who).function()
        return 0

    cdef int send(self, SimulatedAttempt attempt, Request request) except -1:
        cdef Call call = Call.__new__(Call)
        cdef Server server = <Server>self.servers[attempt.pool.endpoints.addresses[attempt.endpoint]]
        call.server = server
        call.attempt = attempt
        call.units = request.units
        attempt.call = call
        server.in_flight += 1
        server.most_in_flight = max(server.most_in_flight, server.in_flight)
        return self.agenda.add(self.agenda.now + self.delay, CALL_ARRIVES, call)

    cdef int bring(self, Call call) except -1:
        cdef SimulatedAttempt attempt = call.attempt
        cdef SimulatedPoller poller
        if attempt is None:
            return 0
        call.attempt = None
        call.server.in_flight -= 1
        if attempt.owner is None:
            return 0
        poller = <SimulatedPoller>(<Exchange>attempt.owner).client.poller
        poller.begin_batch()
        attempt.answered(call.outcome)
        poller.end_batch()
        return 0

    cdef int leave(self, Request request) except -1:
        cdef SimulatedPoller poller
        if request.exchange is None:
            return 0
        poller = <SimulatedPoller>request.poller
        poller.begin_batch()
        request.exchange.client_gone()
        self.over(request, CLIENT_GONE)
        poller.end_batch()
        return 0

    cdef int make_room(self, size_t more) except -1:
        cdef void *grown
        if self.count + more > self.room:
            grown = realloc(self.records, (self.count + more) * sizeof(tg_record))
            if grown == NULL:
                raise MemoryError
            self.records = <tg_record *>grown
            self.room = self.count + more
        return 0

    cdef void over(self, Request request, int status) noexcept:
        """The request has its answer. `run` has made room for its record."""
        cdef Exchange exchange = request.exchange
        cdef tg_record *record = &self.records[self.count]
        if exchange is None:
            return
        request.exchange = None
        self.under_way -= 1
        self.count += 1
        record.intended = request.intended
        record.ended = self.agenda.now + self.delay
        record.status = status
        record.kind = request.kind
        record.attempts = exchange.attempts
        record.endpoint = -1
        record.unused = 0
        if exchange.last_endpoint >= 0:
            record.endpoint = (<Server>self.servers[exchange.pool.endpoints.addresses[exchange.last_endpoint]]).index
        record.reason = 0 if exchange.reason == NULL else self.reason_number(<bytes>exchange.reason)

    cdef int reason_number(self, bytes reason) noexcept:
        found = self.reason_numbers.get(reason)
        if found is None:
            found = self.reason_numbers[reason] = len(self.reasons)
            self.reasons.append(reason.decode())
        return found

    def answers(self) -> bytes:
        """A record for each request that is over, in the order of their ends: two words of 64 bits, when it was to be
        sent and when its answer was there (ns), and six of 32: the status (-1: broken off), the index of the reason,
        the kind, the server's index (-1: none was asked), the attempts, and nothing."""
        return (<char *>self.records)[:self.count * sizeof(tg_record)] if self.count else b""
