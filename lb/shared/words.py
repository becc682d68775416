"""The words of the counter series in the shared segment, each declared once.

A series is a row of 64-bit words in the stripe of each worker. There are several kinds: the series of a listener, of a
route, of an endpoint, of a pool's queue, and so on. Each kind has a table here. A row of a table is one word, or a few
words that belong together:

- `setup.py` writes `segment_words.pxd` from the tables. The compiled side counts by its constants, ROUTE_RETRIES or
  ROUTE_HEDGE_RESULTS_WON: with `tg_add` in a counter, with `count_duration` (lb/shared/counters.pxd) in a histogram.
- `lb.telemetry.series` reads a series by the same names: `series["retries"]`, `series["hedge_results.won"]`.
- /metrics, `counters` of the status document and `docs/metrics.md` have every row that is not internal.

A new metric is one row here and its increment. Rows that two kinds have in common, for code that counts in either, are
a block: the block comes first in both kinds.

The module imports only the standard library: the build runs it before anything else is installed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

COUNTER = "counter"  # only grows; the total is the sum over all workers
HISTOGRAM = "histogram"  # of durations: the sum in ns, a count for each bucket of BOUNDS_US, and one above the last
STATE = "state"  # what the workers tell each other; never shown

# Upper bounds of a histogram's buckets, microseconds.
BOUNDS_US = (
    100, 250, 500, 1_000, 2_000, 3_000, 5_000, 7_500, 10_000, 15_000, 25_000, 50_000, 75_000, 100_000, 150_000, 250_000,
    500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
)  # fmt: skip
# By gRPC's numbers, as grpc-prometheus and Envoy write them.
GRPC_CODES = (
    "OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists", "PermissionDenied",
    "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented", "Internal", "Unavailable",
    "DataLoss", "Unauthenticated",
)  # fmt: skip
CACHE_LINE = 8  # words


@dataclass(frozen=True, slots=True)
class Word:
    """A row: one word, one for each of `values`, or those of a histogram. The unit is in the name, as in `sent_bytes`;
    a counter without one counts events, a histogram is shown in seconds.

    `text` is the meaning and the HELP of the metric; "{}" in it stands for View.noun. `metric` is the metric's name
    without "tidegate_", the "_total" of a counter and the "_seconds" of a histogram. "*" in it stands for the row's
    name, "{}" for View.prefix; without "{}" only the kind's first view has the metric. An empty one makes the row
    internal. `values` are the values of `labels`: ("2xx",) of ("code",). With `where`, only series in which that word
    is not 0 are shown.
    """

    name: str
    text: str
    type: str = COUNTER
    metric: str = "{}_*"
    labels: tuple[str, ...] = ()
    values: tuple[tuple[str, ...], ...] = ()
    room: int = 1  # words, of a state
    where: str = ""

    @property
    def size(self) -> int:
        """How many words it has."""
        return 1 + len(BOUNDS_US) + 1 if self.type == HISTOGRAM else len(self.values) or self.room

    @property
    def shown(self) -> bool:
        """Whether it has a metric, a line in the document and a place in the status document."""
        return self.type != STATE and bool(self.metric)

    def help(self, view: View) -> str:
        """What the metric's HELP line says in the view."""
        return self.text.replace("{}", view.noun)

    def family(self, prefix: str) -> str:
        """The metric's name in the view of that prefix, without "tidegate_" and "_total"."""
        name = self.metric.replace("{}", prefix).replace("*", self.name)
        return f"{name}_seconds" if self.type == HISTOGRAM else name


@dataclass(frozen=True, slots=True)
class View:
    """How a kind's series are shown: `labels` say which one it is, `noun` goes into each text."""

    prefix: str
    labels: tuple[str, ...]
    noun: str


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that several kinds begin with."""

    name: str
    words: tuple[Word, ...]


def _each(*values: str) -> tuple[tuple[str, ...], ...]:
    return tuple((value,) for value in values)


# Every series begins with these. The difference is what is under way; when a worker dies, the master closes the gap.
SERIES = Block(
    "series",
    (
        Word("started", "Requests, connections or sessions begun", metric=""),
        Word("finished", "Those of them that are over", metric=""),
    ),
)

# What an answer counts, for a route or for an endpoint (lb/proxy/tally.pxd).
ANSWER = Block(
    "answer",
    (
        Word(
            "requests",
            "Requests by {} and status class; 429 (Too Many Requests) is not part of 4xx; other: the client left "
            "before its answer, or a TCP or UDP session",
            labels=("code",),
            values=_each("1xx", "2xx", "3xx", "4xx", "429", "5xx", "other"),
        ),
        Word("received_bytes", "Body bytes that came in by {}"),
        Word("sent_bytes", "Body bytes that went out by {}"),
        Word(
            "errors",
            "Answers that are the server's fault by {}: HTTP 5xx, or a gRPC status that stands for one",
        ),
        Word("request_duration", "Time from request to answer by {}", HISTOGRAM),
        Word(
            "grpc",
            "gRPC calls by {} and gRPC status: the number, and the name that goes with it",
            metric="{}_*_requests",
            labels=("grpc_status", "grpc_code"),
            values=tuple((str(number), name) for number, name in enumerate(GRPC_CODES)),
            where="grpc",
        ),
    ),
)

# What a session of datagrams counts, for its listener and for its endpoint.
DATAGRAM = Block(
    "datagram",
    (
        Word("received", "Datagrams from {}", metric="{}_*_datagrams"),
        Word("sent", "Datagrams to {}", metric="{}_*_datagrams"),
        Word("received_bytes", "Bytes of datagrams from {}"),
        Word("sent_bytes", "Bytes of datagrams to {}"),
        Word("reads", "System calls that brought datagrams from {}"),
        Word("writes", "System calls that took datagrams to {}"),
        Word(
            "ended",
            "Sessions ended with {}, by reason: silent for too long, all expected answers came, the endpoint is not "
            "there, it was found down, or the listener went away",
            metric="{}_*_sessions",
            labels=("reason",),
            values=_each("idle", "answered", "refused", "down", "closed"),
        ),
    ),
)


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """A kind of series. Its words are those of SERIES, those of `begins`, and its own `words`.

    The first of `views` shows the series themselves, another one sums over those whose first labels are the same.
    `running` shows what is under way (started less finished), `begun` what was started.
    """

    name: str
    views: tuple[View, ...]
    words: tuple[Word, ...]
    begins: Block | None = None
    running: Word | None = None
    begun: Word | None = None

    def rows(self) -> Iterator[tuple[int, Block | Kind, Word]]:
        """(its first word, where it is declared, the row) of every row, in their order."""
        at = 0
        for home in (SERIES, *((self.begins,) if self.begins is not None else ()), self):
            for word in home.words:
                yield at, home, word
                at += word.size

    def shown_in(self, view: View) -> Iterator[tuple[int, Word]]:
        """(its first word, the row) of every row that has a metric in the view."""
        for at, _, word in self.rows():
            if word.shown and ("{}" in word.metric or view is self.views[0]):
                yield at, word

    @property
    def size(self) -> int:
        """Words of such a series."""
        return sum(word.size for _, _, word in self.rows())

    def place(self, name: str) -> int:
        """The number of a word: "retries", or "requests.2xx". KeyError for one that the kind does not have."""
        first, _, value = name.partition(".")
        at, word = self.find(first)
        if not value:
            return at
        values = [labels[-1] for labels in word.values]
        if value not in values:
            raise KeyError(f"{first} of a {self.name} has no {value!r}")
        return at + values.index(value)

    def find(self, name: str) -> tuple[int, Word]:
        """(its first word, the row). KeyError for one that the kind does not have."""
        return _by_name(self)[name]


@cache
def _by_name(kind: Kind) -> dict[str, tuple[int, Word]]:
    return {word.name: (at, word) for at, _, word in kind.rows()}


LISTENER = Kind(
    "listener",
    (View("listener", ("listener",), "listener"),),
    running=Word("open_connections", "Connections that are open"),
    words=(
        Word("connections", "Connections accepted"),
        Word("rejected", "Requests or sessions refused"),
        Word("timeouts", "Connections closed because their first bytes did not come in time"),
        Word("retries", "Further attempts of TCP connections, each at another endpoint"),
        Word("received_bytes", "Bytes from TCP clients"),
        Word("sent_bytes", "Bytes to TCP clients"),
        Word("session_duration", "Time from begin to end of TCP and UDP sessions", HISTOGRAM),
        Word(
            "rejected_requests",
            "Requests that reached no route, answered here: no route takes them (404, 405, 415), or they could not be "
            "understood (400, 408, 414, 431, 501, 505, or a stream that was reset)",
            metric="{}_*",
            labels=("reason",),
            values=_each("unrouted", "malformed"),
        ),
        Word(
            "tls_handshakes",
            "TLS handshakes of clients",
            metric="*",
            labels=("result",),
            values=_each("full", "resumed", "failed"),
        ),
        Word("http2_connections", "Connections of clients that speak HTTP/2", metric="*"),
        Word("http2_floods", "HTTP/2 connections ended for a flood of control frames or resets", metric="*"),
    ),
)

ROUTE = Kind(
    "route",
    (View("route", ("route",), "route"),),
    begins=ANSWER,
    running=Word("in_flight", "Requests in flight by {}"),
    words=(
        Word("retries", "Retries begun"),
        Word("timeouts", "Requests whose deadline passed"),
        Word("rejected", "Requests refused here: by a limit, by the queue, or because no endpoint takes requests"),
        Word("client_aborts", "Requests whose client left before the answer was complete"),
        Word(
            "upgrades",
            "Requests that became tunnels of another protocol, such as WebSocket (101 of the endpoint); counted as the "
            "tunnel begins, by `requests` as it ends",
        ),
        Word("retries_refused", "Retries that the route's budget did not allow"),
        Word("hedges", "Hedges begun"),
        Word(
            "hedge_results",
            "Hedges by result: the answer was taken, the hedge was given up or failed, or the budget did not allow it",
            labels=("result",),
            values=_each("won", "lost", "refused"),
        ),
        Word(
            "cache",
            "Requests by what the cache did with them, that of inferences or the HTTP cache. The latter alone has "
            "`revalidated`: an endpoint found the stored answer still good. `stored`, `refreshed` and `refresh_failed` "
            "count answers that were kept and calls beside the requests",
            metric="*_requests",
            labels=("result",),
            values=_each(
                "hit",
                "miss",
                "collapsed",
                "bypass",
                "stored",
                "stale",
                "revalidated",
                "refreshed",
                "stale_if_error",
                "negative",
                "refresh_failed",
            ),
        ),
        Word(
            "cache_rows",
            "Rows of batches that were looked up one by one, by what the result cache did with them: found, asked for, "
            "or equal to another row of their batch",
            metric="*",
            labels=("result",),
            values=_each("hit", "miss", "repeated"),
        ),
        Word(
            "cache_whole_batches",
            "Batches of models that are cached row by row, taken as a whole: too many rows or different numbers of "
            "them, or answers to rows that do not go together",
            metric="*",
            labels=("reason",),
            values=_each("request", "answer"),
        ),
        Word(
            "unknown_pools",
            "Requests whose `pool_by` named none of the route's pools: its weights chose one",
            where="unknown_pools",
        ),
        # Claims on a budget (lb/proxy/exchange/budget): one that is not granted is taken back.
        Word("retry_claims", "Retries that the budget was asked for and that it granted", STATE),
        Word("hedge_claims", "Hedges that the budget was asked for and that it granted", STATE),
    ),
)

ENDPOINT = Kind(
    "endpoint",
    (
        View("endpoint", ("pool", "endpoint"), "endpoint (each attempt and each copy of a mirror counts)"),
        View("pool", ("pool",), "pool (each attempt and each copy of a mirror counts)"),
    ),
    begins=ANSWER,
    running=Word("in_flight", "Requests in flight by {}"),
    words=(
        Word("retries", "Retries sent, by {}"),
        Word("timeouts", "Attempts whose deadline passed, by {}"),
        Word("connect_errors", "Connections that could not be made, by {}"),
        Word(
            "local_connect_errors",
            "Connections that this host could not begin, by {}: no source port, file descriptor or memory was left",
            where="local_connect_errors",
        ),
        Word("response_errors", "Answers that broke off or broke the protocol, by {}"),
        Word("probes", "Probes of its load that were sent", metric="endpoint_*", where="probes"),
        Word(
            "probe_failures",
            "Probes without an answer in time, without any, or with one that does not say what is in flight",
            metric="endpoint_*",
            labels=("reason",),
            values=_each("timeout", "failed", "no_report"),
            where="probes",
        ),
        Word(
            "local_messages",
            "Messages of gRPC that went through shared memory instead of the socket, by {}",
            labels=("direction",),
            values=_each("sent", "received"),
            where="local_messages",
        ),
        Word(
            "local_bytes",
            "Bytes of these messages by {}",
            labels=("direction",),
            values=_each("sent", "received"),
            where="local_messages",
        ),
        Word(
            "local_full",
            "Messages of gRPC that went through the socket since the shared memory was full, by {}",
            where="local_full",
        ),
        Word(
            "judged",
            "Answers by which its ejection is decided (lb/health/outlier)",
            metric="",
            labels=("verdict",),
            values=_each("good", "fault"),
        ),
    ),
)

QUEUE = Kind(
    "queue",
    (View("pool_queue", ("pool",), "pool"),),
    running=Word("length", "Requests that wait for an endpoint of the pool"),
    words=(
        Word("wait", "Time that requests waited for an endpoint", HISTOGRAM),
        Word("left", "Time that those requests had waited whose client left", HISTOGRAM),
        Word(
            "ended",
            "Requests that got no endpoint: the queue was full, the answer would have been late, the request was shed "
            "in an overload, it waited too long, or its client left",
            labels=("reason",),
            values=_each("full", "late", "shed", "timeout", "left"),
        ),
        # Where the worker's requests stand in the order of all workers, for the others to see (lb/upstream/queue).
        Word("head", "Key of its first request for which any endpoint will do; UINT64_MAX: there is none", STATE),
        Word(
            "firsts",
            "Key of its first request for each of so many models, whose low bits are the model's; 0 behind the last",
            STATE,
            room=8,
        ),
        Word(
            "marks",
            "Keys of its requests at some ranks, UINT64_MAX behind the end, and of the last one: by them another "
            "worker estimates how many come before a request of its own",
            STATE,
            room=6,
        ),
        Word("busy_since", "When a request came to this worker while none waited anywhere, monotonic ns", STATE),
        # The pool's budgets (lb/proxy/exchange/budget), whether or not it has a queue.
        Word("requests", "Requests that were sent to an endpoint of the pool, retries and hedges apart", STATE),
        Word("retry_claims", "Retries that the pool's budget was asked for and that it granted", STATE),
        Word("hedge_claims", "Hedges that the pool's budget was asked for and that it granted", STATE),
    ),
)

SESSIONS = Kind(
    "sessions",
    (View("pool", ("pool",), "pool"),),
    words=(
        Word(
            "requests",
            "Requests that named a session: its endpoint answered, another one did, or it was not known",
            metric="{}_session_*",
            labels=("result",),
            values=_each("hit", "unknown", "fallback"),
        ),
        Word("learned", "Sessions learned from answers of endpoints", metric="{}_sessions_*"),
        Word("ended", "Sessions that endpoints ended", metric="{}_sessions_*"),
    ),
)

# Of a model, as the exchanges of a pool name it (lb/shared/model_table); beside the other kinds, as no plan has it.
MODEL = Kind(
    "model",
    (View("inference", ("pool", "model"), "model"),),
    begins=ANSWER,
    words=(
        Word(
            "failures",
            "Inferences without a result by {} and reason: client_error, the request was wrong; refused, by a limit, "
            "the queue or for want of an endpoint, or by the model server with 429 or ResourceExhausted; timeout, a "
            "deadline passed; server_error, a fault of the model server or of the connection to it; aborted, the "
            "client left",
            labels=("reason",),
            values=_each("client_error", "refused", "timeout", "server_error", "aborted"),
        ),
        Word("cached", "Inferences that the result cache answered, by {}"),
    ),
)

OTHER_MODEL = "other"  # the model under which those without a series of their own are counted

UDP_LISTENER = Kind(
    "udp-listener",
    (View("udp_listener", ("listener",), "clients"),),
    begins=DATAGRAM,
    begun=Word("sessions", "Sessions begun with {}"),
    running=Word("open_sessions", "Sessions open with {}"),
    words=(
        Word(
            "dropped",
            "Datagrams that went no further, by reason: a session too many, one too many of the client's network, "
            "longer than max_datagram, no endpoint takes sessions, the endpoint is not there, out of descriptors, "
            "ports or memory, a full send buffer to the endpoint or to the clients, the daemon stops, refused by "
            "the kernel, the network may begin no sessions (denied), or has begun too many of late (rate)",
            metric="udp_*_datagrams",
            labels=("reason",),
            values=_each(
                "sessions", "source", "size", "no_endpoint", "unreachable", "resources", "endpoint_full", "client_full",
                "draining", "error", "denied", "rate",
            ),
        ),
    ),
)  # fmt: skip

UDP_ENDPOINT = Kind(
    "udp-endpoint",
    (
        View("udp_endpoint", ("pool", "endpoint"), "the endpoint"),
        View("udp_pool", ("pool",), "the pool's endpoints"),
    ),
    begins=DATAGRAM,
    begun=Word("sessions", "Sessions begun with {}"),
    running=Word("open_sessions", "Sessions open with {}"),
    words=(),
)

KINDS = {kind.name: kind for kind in (LISTENER, ROUTE, ENDPOINT, MODEL, QUEUE, SESSIONS, UDP_LISTENER, UDP_ENDPOINT)}
# Words of every series, whatever its kind: its number alone says where it is, and a free one may become one of another
# kind. The price is empty room in the shorter kinds, some hundred bytes of a listener or a queue and a worker; most
# series are routes and endpoints. Whole cache lines, so that a series begins on one.
SIZE = -(-max(kind.size for kind in KINDS.values()) // CACHE_LINE) * CACHE_LINE


def _constants() -> dict[str, int]:
    found: dict[str, int] = {}
    for kind in KINDS.values():
        for at, home, word in kind.rows():
            name = f"{home.name}_{word.name}".replace("-", "_").upper()
            named = {name: at}
            if word.values or word.room > 1:
                named[f"{name}_COUNT"] = word.size
            if len(word.labels) == 1:
                named |= {f"{name}_{value.upper()}": at + i for i, (value,) in enumerate(word.values)}
            for constant, number in named.items():
                if found.setdefault(constant, number) != number:
                    raise ValueError(f"two words of the segment would be {constant}")
    return found


def declarations() -> str:
    """What segment_words.pxd has."""
    constants = [f"    {name} = {number}" for name, number in _constants().items()]
    # Processes of one daemon that have other words, as an upgrade came between them, must not share a segment.
    digest = zlib.crc32("\n".join(constants).encode()) & 0x7FFFFFFF
    bounds = ", ".join(map(str, BOUNDS_US))
    return "\n".join(
        [
            '"""Written by setup.py from words.py, where each of these is explained: what is changed here is lost."""',
            "",
            "from libc.stdint cimport uint32_t",
            "",
            "",
            "cdef enum:",
            f"    SERIES_SIZE = {SIZE}",
            f"    SERIES_DIGEST = {digest}",
            f"    SERIES_BOUNDS = {len(BOUNDS_US)}",
            *constants,
            "",
            "",
            "cdef extern from *:",
            '    """',
            "    #include <stdint.h>",
            f"    __attribute__((unused)) static const uint32_t tg_bucket_bounds_us[] = {{{bounds}}};",
            '    """',
            "    const uint32_t tg_bucket_bounds_us[]",
            "",
        ]
    )
