"""Round robin by weights that the endpoints' own load reports give (ORCA; gRFC A58, Envoy's policy of that name).

An endpoint reports with its answers how many requests it serves in a second, how many of them fail, and how busy that
makes it (`xds.data.orca.v3.OrcaLoadReport`; lb/upstream/load/load_report reads them). Its weight is what it would serve
if it were fully busy:

    requests/s / (utilization + errors/s / requests/s * error_utilization_penalty)
"""

from array import array

from libc.stdint cimport uint64_t
from lb.balancing.policy cimport Policy
from lb.balancing.stride cimport Stride
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet

from pydantic import Field

from lb.balancing.explained import Explained, Score
from lb.balancing.options import PolicyOptions
from lb.config.schema.base import Number
from lb.config.units import MILLISECOND, SECOND, Duration


class OutOfBandOptions(PolicyOptions):
    """Reports on a stream of their own, beside the answers: gRPC's `enable_oob_load_report`."""
    period: Duration = Field(
        default=10 * SECOND,
        ge=100 * MILLISECOND,
        description="How often endpoints are asked to report; they may do it less often.",
    )


class ReportOptions(PolicyOptions):
    blackout_period: Duration = Field(
        default=10 * SECOND,
        ge=0,
        description="Time from an endpoint's first report, or since it came up, until its reports count: the first "
        "ones say little.",
    )
    weight_expiration_period: Duration = Field(
        default=180 * SECOND, ge=MILLISECOND, description="Time after which a report no longer counts."
    )
    weight_update_period: Duration = Field(
        default=SECOND, ge=100 * MILLISECOND, description="How often the weights are made anew from the reports."
    )
    error_utilization_penalty: Number = Field(
        default=1.0,
        ge=0,
        description="What a share of errors adds to an endpoint's utilization, as a multiple of it: with 1, one that "
        "fails every second request counts as busier by a half. 0: errors do not matter.",
    )
    oob: OutOfBandOptions | None = Field(
        default=None,
        description="Endpoints report on a stream to the master, and reports in answers are not read; an empty "
        "mapping (`oob: {}`) takes the default. In pools of protocol `grpc` and `oip`. Default: reports in answers "
        "are.",
    )

    def problems(self, protocol):
        if self.oob is not None and protocol not in ("grpc", "oip"):
            yield "oob", f"has no effect with protocol {protocol}: reports are streamed over gRPC"


cdef class ClientSideWeightedRoundRobin(Policy):
    """Endpoints in turn, in proportion to the weights from their reports times those configured.

    A report counts from `blackout_period` after the endpoint's first one or after it came up, whichever is later, until
    `weight_expiration_period` after it came. Without one an endpoint has the mean weight of the others; where fewer
    than two have one, it is round robin by the configured weights. Every worker has its own turn.
    """
    cdef Stride turns
    cdef int[::1] known
    cdef uint64_t blackout
    cdef uint64_t expiration
    cdef uint64_t update
    cdef uint64_t filled_at
    cdef double penalty
    cdef bint filled

    Options = ReportOptions

    def __init__(self, endpoints: EndpointSet, options: ReportOptions) -> None:
        Policy.__init__(self, endpoints, options)
        self.reads_reports = options.oob is None
        self.blackout = options.blackout_period
        self.expiration = options.weight_expiration_period
        self.update = options.weight_update_period
        self.penalty = options.error_utilization_penalty
        # Workers start at different endpoints: else the first of all of them would meet at one.
        self.rotation = endpoints.worker
        self.turns = Stride(endpoints.size)
        # The weights that the table was made with, reports aside; 0 of those that took no requests then.
        self.known = array("i", bytes(4 * endpoints.size))
        self.filled_at = 0
        self.filled = False

    cpdef int pick(self, Choice choice) except -2:
        cdef int index
        if self.endpoints.size == 0:
            return -1
        self.turns.sequence = self.rotation
        index = self.choose(choice)
        self.rotation = self.turns.sequence
        return index

    cdef int choose(self, Choice choice) except -2:
        cdef int index, other
        if not self.filled or choice.now >= self.filled_at + self.update:
            self.refill(choice.now)
        index = self.turn(choice)
        if index >= 0:
            return index
        other = self.any(choice)
        if other < 0:
            return -1
        # Those that have their turns in the table do not take requests any more, or others do.
        self.refill(choice.now)
        index = self.turn(choice)
        return index if index >= 0 else other

    def explain(self, choice: Choice) -> Explained:
        endpoints, now = self.endpoints, choice.now
        before = (self.rotation, self.filled_at, self.filled)
        table, known = list(self.turns.weights), list(self.known)
        index = self.pick(choice)
        weights = self.weights(now)
        scores = []
        for i in range(endpoints.size):
            if choice.available(i):
                note = (
                    f"weight {weights[i]:.4g}, {'reported' if self.reported(i, now) > 0 else 'no report that counts'}"
                )
                scores.append(Score(i, float(i != index), note))
        self.rotation, self.filled_at, self.filled = before
        for i, weight in enumerate(table):
            self.turns.weights[i] = weight
            self.known[i] = known[i]
        return Explained("in turn, by the weights from the endpoints' reports; every worker has its own turn", scores)

    cdef int turn(self, Choice choice) noexcept:
        """The next in turn that is available; -1 when there is none within two generations. In each generation the one
        of the largest weight has a turn, and every change of a weight is seen: the next choice makes the table anew."""
        cdef int index
        for _ in range(2 * self.endpoints.size):
            if self.changed(self.turns.sequence % self.endpoints.size):
                self.filled = False
            index = self.turns.step()
            if index >= 0 and choice.effective_weight(index) > 0:
                return index
        return -1

    cdef int any(self, Choice choice) noexcept:
        """Whoever takes requests, from the next in turn on; -1: nobody."""
        cdef uint64_t start = self.turns.sequence
        cdef uint64_t seen
        cdef int index
        for seen in range(self.endpoints.size):
            index = (start + seen) % self.endpoints.size
            if choice.effective_weight(index) > 0:
                return index
        return -1

    cdef int refill(self, uint64_t now) except -1:
        cdef int i
        # The turns are those of all: this choice may be among one group, or who has one model, the next among others.
        self.turns.fill(self.weights(now))
        for i in range(self.endpoints.size):
            self.known[i] = self.endpoints.state_weight(i)
        self.filled_at = now
        self.filled = True

    cdef bint changed(self, int i) noexcept:
        """Whether it takes requests by another weight than the table has of it: an operator's, or that of a slow start.
        One that takes none keeps its turns, which go to others."""
        cdef int weight = self.endpoints.state_weight(i)
        return weight not in (0, self.known[i])

    cpdef list weights(self, uint64_t now):
        """What each endpoint's share is in proportion to; an endpoint that takes no requests has the smallest."""
        cdef EndpointSet endpoints = self.endpoints
        cdef int i, known
        cdef double share, total, smallest
        made = []
        known = 0
        total = 0.0
        for i in range(endpoints.size):
            share = self.reported(i, now) if endpoints.state_weight(i) > 0 else 0.0
            made.append(share)
            if share > 0:
                known += 1
                total += share
        smallest = 0.0
        for i in range(endpoints.size):
            share = made[i]
            if known < 2:
                share = 1.0
            elif share == 0:
                share = total / known
            share *= endpoints.state_weight(i)
            made[i] = share
            if share > 0 and (smallest == 0 or share < smallest):
                smallest = share
        return [share if share > 0 else smallest for share in made]

    cdef double reported(self, int index, uint64_t now) noexcept:
        """The weight by the endpoint's last report; 0: it has none that counts."""
        cdef EndpointSet endpoints = self.endpoints
        cdef uint64_t at = endpoints.reported_at(index)
        if at == 0:
            return 0.0
        if now >= at + self.expiration:
            endpoints.forget_report(index)
            return 0.0
        if now < endpoints.reporting_since(index) + self.blackout:
            return 0.0
        return self.weight(
            endpoints.reported_utilization(index), endpoints.reported_qps(index), endpoints.reported_eps(index)
        )

    cpdef double weight(self, double utilization, double qps, double eps) noexcept:
        """The formula; 0 where there is nothing to divide by."""
        if qps <= 0 or utilization <= 0:
            return 0.0
        return qps / (utilization + eps / qps * self.penalty)
