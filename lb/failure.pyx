"""The table of failures: see failure.pxd. `docs/failures.md` is its rows in words; a test holds the two together."""

from typing import NamedTuple

from libc.errno cimport EADDRINUSE, EADDRNOTAVAIL, EMFILE, ENFILE, ENOBUFS, ENOMEM


class Failure(NamedTuple):
    """One kind of failure.

    `fault` is "client", "endpoint", "ours" or "" (nobody's); `status` is 0 where the client is told nothing; `counter`
    is a name, "" for none, and `retry` has those values of `retry.on` that let another endpoint be tried.
    """
    kind: int
    name: str
    fault: str
    status: int
    grpc_status: int
    reason: str
    counter: str
    retry: tuple[str, ...]


cdef dict FAULTS = {FAULT_NOBODYS: "", FAULT_CLIENTS: "client", FAULT_ENDPOINTS: "endpoint", FAULT_OURS: "ours"}
cdef dict COUNTERS = {
    COUNT_NOTHING: "", COUNT_REJECTED: "rejected", COUNT_TIMEOUT: "timeouts", COUNT_UNROUTED: "unrouted",
    COUNT_MALFORMED: "malformed", COUNT_CONNECT_ERROR: "connect errors",
    COUNT_LOCAL_CONNECT_ERROR: "local connect errors", COUNT_RESPONSE_ERROR: "response errors",
}
cdef dict RETRIES = {RETRY_CONNECT: "connect", RETRY_RESET: "reset", RETRY_5XX: "5xx", RETRY_TIMEOUT: "timeout",
                     RETRY_LIMITED: "rate-limited"}

cdef enum:
    RETRY_UNPROCESSED = RETRY_CONNECT | RETRY_RESET     # there was a connection, and nothing came of it

cdef tuple NAMES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)

# The gRPC statuses of our own answers are those that gRPC gives to their HTTP statuses ("HTTP to gRPC Status Code
# Mapping"), but for what we know better: an exchange that ran out of time, a request over a limit, and a sequence that
# has to begin anew. An HTTP status has one gRPC status, so that a client is told the same in either, but for 429: that
# of a quota says when to come again, and soon is of no use.
cdef list ROWS = [
    (FAIL_NONE, FAULT_NOBODYS, 200, "OK", b"", COUNT_NOTHING, RETRY_NEVER),
    (FAIL_CONNECT, FAULT_ENDPOINTS, 502, "UNAVAILABLE", b"connect", COUNT_CONNECT_ERROR, RETRY_CONNECT),
    # Another endpoint has source ports of its own.
    (FAIL_NO_SOCKET, FAULT_OURS, 503, "UNAVAILABLE", b"no-socket", COUNT_LOCAL_CONNECT_ERROR, RETRY_CONNECT),
    # Refused by the endpoint, GOAWAY below the stream, or an idle connection closed before the request came.
    (FAIL_REFUSED, FAULT_ENDPOINTS, 502, "UNAVAILABLE", b"upstream-reset", COUNT_RESPONSE_ERROR, RETRY_UNPROCESSED),
    (FAIL_RESET, FAULT_ENDPOINTS, 502, "UNAVAILABLE", b"upstream-reset", COUNT_RESPONSE_ERROR, RETRY_RESET),
    (FAIL_TIMEOUT, FAULT_ENDPOINTS, 504, "DEADLINE_EXCEEDED", b"timeout", COUNT_TIMEOUT, RETRY_TIMEOUT),
    (FAIL_PROTOCOL, FAULT_ENDPOINTS, 502, "UNAVAILABLE", b"upstream-protocol", COUNT_RESPONSE_ERROR, RETRY_NEVER),
    (FAIL_TOO_LARGE, FAULT_ENDPOINTS, 502, "UNAVAILABLE", b"upstream-too-large", COUNT_RESPONSE_ERROR, RETRY_NEVER),
    (FAIL_PROXY_HEADER, FAULT_OURS, 0, "OK", b"proxy-header", COUNT_NOTHING, RETRY_NEVER),
    # Of a REST client the status is that of the model server's gRPC status: see CODES.
    (FAIL_MODEL_ERROR, FAULT_ENDPOINTS, 500, "UNKNOWN", b"model-error", COUNT_NOTHING, RETRY_5XX),
    (FAIL_GRPC_UNAVAILABLE, FAULT_ENDPOINTS, 200, "UNAVAILABLE", b"grpc-unavailable", COUNT_NOTHING, RETRY_5XX),

    (FAIL_NO_ENDPOINT, FAULT_ENDPOINTS, 503, "UNAVAILABLE", b"no-endpoint", COUNT_REJECTED, RETRY_NEVER),
    (FAIL_MODEL_NOT_READY, FAULT_ENDPOINTS, 503, "UNAVAILABLE", b"model-not-ready", COUNT_REJECTED, RETRY_NEVER),
    (FAIL_QUEUE_FULL, FAULT_OURS, 503, "UNAVAILABLE", b"queue-full", COUNT_REJECTED, RETRY_NEVER),
    (FAIL_QUEUE_LATE, FAULT_OURS, 503, "UNAVAILABLE", b"queue-late", COUNT_REJECTED, RETRY_NEVER),
    (FAIL_QUEUE_SHED, FAULT_OURS, 503, "UNAVAILABLE", b"queue-shed", COUNT_REJECTED, RETRY_NEVER),
    (FAIL_QUEUE_TIMEOUT, FAULT_OURS, 503, "UNAVAILABLE", b"queue-timeout", COUNT_REJECTED, RETRY_NEVER),
    (FAIL_SEQUENCE_LOST, FAULT_ENDPOINTS, 409, "ABORTED", b"sequence-lost", COUNT_NOTHING, RETRY_NEVER),
    (FAIL_SEQUENCE_UNKNOWN, FAULT_CLIENTS, 409, "ABORTED", b"sequence-unknown", COUNT_NOTHING, RETRY_NEVER),

    (FAIL_OVERLOADED, FAULT_OURS, 503, "UNAVAILABLE", b"overloaded", COUNT_REJECTED, RETRY_NEVER),
    (FAIL_ROUTE_FULL, FAULT_OURS, 503, "UNAVAILABLE", b"route-full", COUNT_NOTHING, RETRY_NEVER),
    (FAIL_RATE_LIMIT, FAULT_CLIENTS, 429, "UNAVAILABLE", b"rate-limit", COUNT_REJECTED, RETRY_NEVER),
    (FAIL_QUOTA, FAULT_CLIENTS, 429, "RESOURCE_EXHAUSTED", b"quota", COUNT_REJECTED, RETRY_NEVER),
    # A rule may say 429 or 503 instead.
    (FAIL_TABLE_RULE, FAULT_CLIENTS, 403, "PERMISSION_DENIED", b"table-rule", COUNT_REJECTED, RETRY_NEVER),
    (FAIL_NO_MEMORY, FAULT_OURS, 503, "UNAVAILABLE", b"no-memory", COUNT_NOTHING, RETRY_NEVER),
    (FAIL_INTERNAL, FAULT_OURS, 500, "UNKNOWN", b"internal", COUNT_NOTHING, RETRY_NEVER),

    (FAIL_NO_CREDENTIAL, FAULT_CLIENTS, 401, "UNAUTHENTICATED", b"no-credential", COUNT_REJECTED, RETRY_NEVER),
    (FAIL_BAD_CREDENTIAL, FAULT_CLIENTS, 401, "UNAUTHENTICATED", b"bad-credential", COUNT_REJECTED, RETRY_NEVER),
    (FAIL_FORBIDDEN, FAULT_CLIENTS, 403, "PERMISSION_DENIED", b"forbidden", COUNT_REJECTED, RETRY_NEVER),
    (FAIL_UNCHECKED, FAULT_OURS, 503, "UNAVAILABLE", b"unchecked", COUNT_REJECTED, RETRY_NEVER),

    (FAIL_NO_ROUTE, FAULT_CLIENTS, 404, "UNIMPLEMENTED", b"no-route", COUNT_UNROUTED, RETRY_NEVER),
    (FAIL_METHOD, FAULT_CLIENTS, 405, "UNIMPLEMENTED", b"method", COUNT_UNROUTED, RETRY_NEVER),
    (FAIL_GRPC_ONLY, FAULT_CLIENTS, 415, "INTERNAL", b"grpc-only", COUNT_UNROUTED, RETRY_NEVER),
    (FAIL_SINGLE_SERVER, FAULT_CLIENTS, 404, "UNIMPLEMENTED", b"single-server", COUNT_NOTHING, RETRY_NEVER),
    (FAIL_NOT_SERVED, FAULT_CLIENTS, 404, "UNIMPLEMENTED", b"not-served", COUNT_NOTHING, RETRY_NEVER),

    (FAIL_BAD_REQUEST, FAULT_CLIENTS, 400, "INTERNAL", b"bad-request", COUNT_MALFORMED, RETRY_NEVER),
    (FAIL_BAD_BODY, FAULT_CLIENTS, 400, "INTERNAL", b"bad-body", COUNT_NOTHING, RETRY_NEVER),
    (FAIL_NO_HOST, FAULT_CLIENTS, 400, "INTERNAL", b"no-host", COUNT_NOTHING, RETRY_NEVER),
    (FAIL_BODY_TOO_LARGE, FAULT_CLIENTS, 413, "RESOURCE_EXHAUSTED", b"body-too-large", COUNT_NOTHING, RETRY_NEVER),
    (FAIL_HEAD_TOO_LARGE, FAULT_CLIENTS, 431, "RESOURCE_EXHAUSTED", b"head-too-large", COUNT_MALFORMED, RETRY_NEVER),
    (FAIL_TOO_MANY_FIELDS, FAULT_CLIENTS, 431, "RESOURCE_EXHAUSTED", b"too-many-fields", COUNT_NOTHING, RETRY_NEVER),
    (FAIL_URI_TOO_LONG, FAULT_CLIENTS, 414, "UNKNOWN", b"uri-too-long", COUNT_MALFORMED, RETRY_NEVER),
    (FAIL_PATH_TOO_LONG, FAULT_CLIENTS, 414, "UNKNOWN", b"path-too-long", COUNT_NOTHING, RETRY_NEVER),
    (FAIL_SLOW_HEAD, FAULT_CLIENTS, 408, "DEADLINE_EXCEEDED", b"slow-head", COUNT_MALFORMED, RETRY_NEVER),
    (FAIL_SLOW_BODY, FAULT_CLIENTS, 408, "DEADLINE_EXCEEDED", b"slow-body", COUNT_TIMEOUT, RETRY_NEVER),
    (FAIL_NOT_IMPLEMENTED, FAULT_CLIENTS, 501, "UNKNOWN", b"not-implemented", COUNT_MALFORMED, RETRY_NEVER),
    (FAIL_HTTP_VERSION, FAULT_CLIENTS, 505, "UNKNOWN", b"http-version", COUNT_MALFORMED, RETRY_NEVER),
    # It wants an answer from the cache alone (only-if-cached, RFC 9111 section 5.2.1.7), which has none.
    (FAIL_NOT_CACHED, FAULT_CLIENTS, 504, "DEADLINE_EXCEEDED", b"not-cached", COUNT_NOTHING, RETRY_NEVER),

    (FAIL_CLIENT_GONE, FAULT_CLIENTS, CLIENT_GONE, "CANCELLED", b"client-gone", COUNT_NOTHING, RETRY_NEVER),

    (FAIL_PROXY_UNTRUSTED, FAULT_CLIENTS, 0, "OK", b"proxy-untrusted", COUNT_REJECTED, RETRY_NEVER),
    (FAIL_PROXY_MISSING, FAULT_CLIENTS, 0, "OK", b"proxy-missing", COUNT_REJECTED, RETRY_NEVER),
    (FAIL_PROXY_MALFORMED, FAULT_CLIENTS, 0, "OK", b"proxy-malformed", COUNT_REJECTED, RETRY_NEVER),
    (FAIL_FIRST_BYTES_TIMEOUT, FAULT_CLIENTS, 0, "OK", b"first-bytes-timeout", COUNT_REJECTED, RETRY_NEVER),
    (FAIL_NOT_TLS, FAULT_CLIENTS, 0, "OK", b"not-tls", COUNT_REJECTED, RETRY_NEVER),
    (FAIL_BAD_CLIENT_HELLO, FAULT_CLIENTS, 0, "OK", b"bad-client-hello", COUNT_REJECTED, RETRY_NEVER),
    (FAIL_LISTENER_FULL, FAULT_OURS, 0, "OK", b"listener-full", COUNT_REJECTED, RETRY_NEVER),
    (FAIL_DENIED, FAULT_CLIENTS, 0, "OK", b"denied", COUNT_REJECTED, RETRY_NEVER),
    (FAIL_CONNECTION_RATE, FAULT_CLIENTS, 0, "OK", b"connection-rate", COUNT_REJECTED, RETRY_NEVER),
    (FAIL_SOURCE_LIMIT, FAULT_CLIENTS, 0, "OK", b"source-limit", COUNT_REJECTED, RETRY_NEVER),

    (FAIL_TLS, FAULT_CLIENTS, 0, "OK", b"tls", COUNT_NOTHING, RETRY_NEVER),
    (FAIL_IDLE, FAULT_NOBODYS, 0, "OK", b"idle", COUNT_NOTHING, RETRY_NEVER),
    (FAIL_BROKEN_OFF, FAULT_NOBODYS, 0, "OK", b"reset", COUNT_NOTHING, RETRY_NEVER),
    (FAIL_MARKED, FAULT_ENDPOINTS, 502, "UNAVAILABLE", b"marked", COUNT_NOTHING, RETRY_RESET),
    (FAIL_UDP_REFUSED, FAULT_ENDPOINTS, 0, "OK", b"refused", COUNT_NOTHING, RETRY_NEVER),
    (FAIL_UDP_DOWN, FAULT_ENDPOINTS, 0, "OK", b"down", COUNT_NOTHING, RETRY_NEVER),
    (FAIL_UDP_CLOSED, FAULT_OURS, 0, "OK", b"closed", COUNT_NOTHING, RETRY_NEVER),
    (FAIL_UDP_NO_ANSWER, FAULT_ENDPOINTS, 0, "OK", b"no-answer", COUNT_TIMEOUT, RETRY_NEVER),
]

# gRPC statuses of endpoints' answers: the HTTP status that a REST client is told, and what the answer says of the
# endpoint. The first as the Open Inference Protocol's reference server has it (INTERNAL 500, NOT_FOUND 404, UNAVAILABLE
# 503, UNIMPLEMENTED 501; UNKNOWN, INVALID_ARGUMENT, ALREADY_EXISTS and CANCELLED 400), and as google.rpc.Code documents
# where that has none; the second by the table that Envoy's outlier detection goes by (Grpc::Utility::grpcToHttpStatus).
cdef list CODES = [
    ("OK", 200, VERDICT_GOOD),
    ("CANCELLED", 400, VERDICT_NONE),
    ("UNKNOWN", 400, VERDICT_FAULT),
    ("INVALID_ARGUMENT", 400, VERDICT_GOOD),
    ("DEADLINE_EXCEEDED", 504, VERDICT_GATEWAY),
    ("NOT_FOUND", 404, VERDICT_GOOD),
    ("ALREADY_EXISTS", 400, VERDICT_GOOD),
    ("PERMISSION_DENIED", 403, VERDICT_GOOD),
    ("RESOURCE_EXHAUSTED", 429, VERDICT_BUSY),
    ("FAILED_PRECONDITION", 400, VERDICT_GOOD),
    ("ABORTED", 409, VERDICT_GOOD),
    ("OUT_OF_RANGE", 400, VERDICT_GOOD),
    ("UNIMPLEMENTED", 501, VERDICT_FAULT),
    ("INTERNAL", 500, VERDICT_FAULT),
    ("UNAVAILABLE", 503, VERDICT_GATEWAY),
    ("DATA_LOSS", 500, VERDICT_FAULT),
    ("UNAUTHENTICATED", 401, VERDICT_GOOD),
]

cdef tg_failure[FAILURES] table
cdef int[600] grpc_codes              # by HTTP status
cdef int[GRPC_CODES] http_statuses    # by gRPC status, as the next
cdef int[GRPC_CODES] verdicts


def fill():
    """The rows as C has them, checked: each kind has one, and each HTTP status one gRPC status."""
    rows = []
    for status in range(600):
        grpc_codes[status] = NAMES.index("UNKNOWN")
    # Of answers of a route, which are no failures.
    grpc_codes[401], grpc_codes[403] = NAMES.index("UNAUTHENTICATED"), NAMES.index("PERMISSION_DENIED")
    told = {}
    for kind, whose, status, code, reason, counter, retry in ROWS:
        if kind != len(rows):
            raise AssertionError(f"the row of failure {kind} stands at {len(rows)}")
        table[kind].reason = <const char *><bytes>reason       # which ROWS keeps
        table[kind].reason_length = <int>len(reason)
        table[kind].status = status
        table[kind].grpc_status = <int>NAMES.index(code)
        table[kind].fault = whose
        table[kind].counter = counter
        table[kind].retry = retry
        if 400 <= status < 600 and kind != FAIL_QUOTA:
            if told.setdefault(status, code) != code:
                raise AssertionError(f"HTTP status {status} stands for {told[status]} and for {code}")
            grpc_codes[status] = table[kind].grpc_status
        name = reason.decode()
        if kind == FAIL_REFUSED:
            name = "upstream-refused"     # the log does not tell it from the next
        rows.append(Failure(kind, name, FAULTS[whose], status, NAMES.index(code), reason.decode(), COUNTERS[counter],
                            tuple(name for bit, name in RETRIES.items() if bit & retry)))
    if len(rows) != FAILURES:
        raise AssertionError(f"{FAILURES} kinds of failures, {len(rows)} rows")
    for code, (name, status, verdict) in enumerate(CODES):
        if name != NAMES[code]:
            raise AssertionError(f"the row of {name} stands at {code}")
        http_statuses[code] = status
        verdicts[code] = verdict
    return tuple(rows)


ALL: tuple[Failure, ...] = fill()
BY_NAME: dict[str, Failure] = {row.name: row for row in ALL}


cdef int connect_failure(int error) noexcept nogil:
    if error in (EADDRNOTAVAIL, EADDRINUSE, EMFILE, ENFILE, ENOBUFS, ENOMEM):
        return FAIL_NO_SOCKET
    return FAIL_CONNECT


cdef const tg_failure *failure_of(int kind) noexcept nogil:
    return &table[kind]


cdef int grpc_code(int status) noexcept nogil:
    return grpc_codes[status] if 0 <= status < 600 else grpc_codes[0]


cdef int verdict_of(int status, bint ok) noexcept nogil:
    if status == CLIENT_GONE:
        return VERDICT_NONE
    if status >= 500:
        return VERDICT_GATEWAY if 502 <= status <= 504 else VERDICT_FAULT
    if status == 429:
        return VERDICT_BUSY
    return VERDICT_GOOD if ok else VERDICT_GATEWAY


cdef int verdict_of_grpc(int code) noexcept nogil:
    return verdicts[code] if 0 <= code < GRPC_CODES else VERDICT_FAULT


cdef int verdict_of_failure(int kind) noexcept nogil:
    return VERDICT_NONE if kind == FAIL_NO_SOCKET else VERDICT_GATEWAY


cdef bint is_fault(int code) noexcept nogil:
    return 0 <= code < GRPC_CODES and (verdicts[code] == VERDICT_FAULT or verdicts[code] == VERDICT_GATEWAY)


cdef bint is_retryable(int status) noexcept nogil:
    return verdict_of(status, True) == VERDICT_GATEWAY


cdef bint is_good(int status) noexcept nogil:
    return verdict_of(status, True) <= VERDICT_GOOD


cdef int http_of_grpc(int code) noexcept nogil:
    return http_statuses[code] if 0 <= code < GRPC_CODES else failure_of(FAIL_PROTOCOL).status


def grpc_to_http(int status) -> int:
    """The HTTP status that a REST client is told for a gRPC status code; 502 for a code that does not exist."""
    return http_of_grpc(status)


def grpc_faults() -> list[int]:
    """The gRPC statuses that are the server's fault."""
    return [code for code in range(<int>GRPC_CODES) if is_fault(code)]
