"""Parts of an exchange and of a pool, called from Python, with the time as an argument."""

from libc.stdint cimport uint64_t
from lb.failure cimport grpc_code
from lb.shared.segment_words cimport SERIES_STARTED
from lb.net.buffer cimport tg_buffer_head, tg_buffer_size
from lb.net.splice cimport passed
from lb.proxy.exchange.budget cimport Counted, RetryBudget
from lb.proxy.exchange.hedge cimport HedgePolicy, Latencies
from lb.proxy.exchange.refusal cimport Refusal, refusal
from lb.proxy.accept.overload cimport Overload
from lb.proxy.client.body_rate cimport body_rate_advance, body_rate_quota, body_rate_start, tg_body_rate
from lb.upstream.load.cost cimport PoolCosts
from lb.upstream.load.service_time cimport ServiceTime, Warmth


class Budget:
    """A RetryBudget, with the time as an argument in nanoseconds. `requests` have begun and count for it."""

    def __init__(self, segment, series, percent, least, hedges=False, window=1):
        self.segment = segment
        self.series = series
        self.budget = RetryBudget(segment, Counted(series, "route", hedges), percent, least, window)

    def begin(self, now):
        self.segment.add_series(self.series, SERIES_STARTED)
        (<RetryBudget>self.budget).begin(now)

    def claim(self, now):
        return bool((<RetryBudget>self.budget).claim(now))

    def give_back(self, now):
        (<RetryBudget>self.budget).give_back(now)


class Quantiles:
    """Latencies, with the time as an argument in nanoseconds."""

    def __init__(self):
        self.latencies = Latencies()

    def add(self, now, latency):
        (<Latencies>self.latencies).add(now, latency)

    def quantile(self, per_mille, least=1):
        return (<Latencies>self.latencies).quantile(10 * per_mille, least)


def hedge_pays(HedgePolicy policy not None):
    return bool(policy.pays())


def hedge_ended(HedgePolicy policy not None, bint won):
    policy.ended(won)


def told_again(status, message, speaks, after):
    """The head of a refusal."""
    cdef Refusal made = refusal(status, grpc_code(status), message, speaks, NULL, after)
    return tg_buffer_head(&made.head)[:tg_buffer_size(&made.head)]


cdef class Pace:
    """`rate` bytes a second over each `window` ns."""
    cdef tg_body_rate body_rate
    cdef uint64_t quota
    cdef uint64_t window

    def __init__(self, uint64_t rate, uint64_t window):
        self.quota = body_rate_quota(rate, window)
        self.window = window

    def start(self, uint64_t now):
        body_rate_start(&self.body_rate, now)

    def advance(self, uint64_t now, uint64_t came):
        """The deadline after `came` bytes came at `now`; 2**64 - 1 = never."""
        return body_rate_advance(&self.body_rate, now, came, self.quota, self.window)


def would_refuse(Overload overload not None, Py_ssize_t in_flight):
    """Whether a new exchange is refused when there are `in_flight` of them with it."""
    return bool(overload.refuses(in_flight))


def price(PoolCosts costs not None, double units, bytes model, uint64_t now):
    """What a request costs, in 1/256 of an average one."""
    if not units > 0:
        raise ValueError(f"a request cannot have {units} units")
    return costs.price(units, costs.model_key(<const char *>model, <size_t>len(model)), now)


def learn_cost(PoolCosts costs not None, bytes model, double units, uint64_t latency, int charged, int load_at_start,
               uint64_t now):
    """`learn`, where the model can be told apart."""
    cdef uint64_t key = costs.model_key(<const char *>model, <size_t>len(model))
    if key:
        costs.learn(key, <const char *>model, <size_t>len(model), units, latency, charged, load_at_start, now)


def learn_service_time(ServiceTime time not None, uint64_t now, uint64_t latency):
    """`learn`."""
    time.learn(now, latency)


def known_service_time(ServiceTime time not None, uint64_t now):
    """`known`."""
    return time.known(now)


def tells(Warmth warmth not None, uint64_t sent, uint64_t now, bint answered=True):
    """`tells`."""
    return warmth.tells(sent, now, answered)


def bytes_passed():
    """Bytes of bodies that went through this process's pipe."""
    return passed
