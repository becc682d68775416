"""What can go wrong with a request, and what follows from it: one table, which the data path and lb.errors read.

A kind of failure is a number here and a row in failure.pyx: whose fault it is, the status of HTTP and of gRPC that the
client is told, the reason in the access log, the counter, and when another endpoint may be tried.
"""


cdef enum:
    FAIL_NONE = 0

    # An attempt at an endpoint brought no answer, or not all of one.
    FAIL_CONNECT = 1
    FAIL_NO_SOCKET
    FAIL_REFUSED
    FAIL_RESET
    FAIL_TIMEOUT
    FAIL_PROTOCOL
    FAIL_TOO_LARGE
    FAIL_PROXY_HEADER
    # An attempt brought an answer that is an error.
    FAIL_MODEL_ERROR
    FAIL_GRPC_UNAVAILABLE

    # There is no endpoint for the request.
    FAIL_NO_ENDPOINT
    FAIL_MODEL_NOT_READY
    FAIL_QUEUE_FULL
    FAIL_QUEUE_LATE
    FAIL_QUEUE_SHED
    FAIL_QUEUE_TIMEOUT
    FAIL_SEQUENCE_LOST
    FAIL_SEQUENCE_UNKNOWN

    # This process does not carry the request out.
    FAIL_OVERLOADED
    FAIL_ROUTE_FULL
    FAIL_RATE_LIMIT
    FAIL_QUOTA
    FAIL_TABLE_RULE
    FAIL_NO_MEMORY
    FAIL_INTERNAL

    # The client may not send the request.
    FAIL_NO_CREDENTIAL
    FAIL_BAD_CREDENTIAL
    FAIL_FORBIDDEN
    FAIL_UNCHECKED

    # No route takes the request, or what takes it does not know the call.
    FAIL_NO_ROUTE
    FAIL_METHOD
    FAIL_GRPC_ONLY
    FAIL_SINGLE_SERVER
    FAIL_NOT_SERVED

    # The request cannot be carried out as it is.
    FAIL_BAD_REQUEST
    FAIL_BAD_BODY
    FAIL_NO_HOST
    FAIL_BODY_TOO_LARGE
    FAIL_HEAD_TOO_LARGE
    FAIL_TOO_MANY_FIELDS
    FAIL_URI_TOO_LONG
    FAIL_PATH_TOO_LONG
    FAIL_SLOW_HEAD
    FAIL_SLOW_BODY
    FAIL_NOT_IMPLEMENTED
    FAIL_HTTP_VERSION
    FAIL_NOT_CACHED

    # The client left.
    FAIL_CLIENT_GONE

    # A connection was refused by its first bytes.
    FAIL_PROXY_UNTRUSTED
    FAIL_PROXY_MISSING
    FAIL_PROXY_MALFORMED
    FAIL_FIRST_BYTES_TIMEOUT
    FAIL_NOT_TLS
    FAIL_BAD_CLIENT_HELLO
    FAIL_LISTENER_FULL
    FAIL_DENIED
    FAIL_CONNECTION_RATE
    FAIL_SOURCE_LIMIT

    # A session (TCP, upgraded HTTP, UDP; marked: any request) ended other than by its peers' will.
    FAIL_TLS
    FAIL_IDLE
    FAIL_BROKEN_OFF
    FAIL_MARKED
    FAIL_UDP_REFUSED
    FAIL_UDP_DOWN
    FAIL_UDP_CLOSED
    FAIL_UDP_NO_ANSWER

    FAILURES                          # how many there are, FAIL_NONE included


# The status of a client that left before its answer, in the log only (nginx's).
cdef enum:
    CLIENT_GONE = 499


cdef enum fault:
    FAULT_NOBODYS = 0
    FAULT_CLIENTS
    FAULT_ENDPOINTS
    FAULT_OURS


# The counter of a route, a listener or an endpoint that a failure is added to (lb.proxy.tally has the words).
cdef enum counter:
    COUNT_NOTHING = 0
    COUNT_REJECTED
    COUNT_TIMEOUT
    COUNT_UNROUTED
    COUNT_MALFORMED
    COUNT_CONNECT_ERROR
    COUNT_LOCAL_CONNECT_ERROR
    COUNT_RESPONSE_ERROR


# After which failures another endpoint is tried: bits, the values of a route's `retry.on`.
cdef enum:
    RETRY_NEVER = 0
    RETRY_CONNECT = 1                 # the endpoint has not processed the request: always safe
    RETRY_RESET = 2                   # it may have: where repeating does no harm
    RETRY_5XX = 4
    RETRY_TIMEOUT = 8
    RETRY_LIMITED = 16                # 429: the endpoint has refused it


cdef struct tg_failure:
    const char *reason                # in the access log
    int reason_length
    int status                        # of HTTP; 0 = the client is told nothing
    int grpc_status
    int fault
    int counter
    int retry                         # RETRY_…


# Why a connection could not be made, by the errno: FAIL_NO_SOCKET where this host is out of something, of which the
# endpoint knows nothing; else FAIL_CONNECT.
cdef int connect_failure(int error) noexcept nogil
# The row of a kind (0 <= kind < FAILURES).
cdef const tg_failure *failure_of(int kind) noexcept nogil
# The gRPC status of an answer of ours that has this HTTP status.
cdef int grpc_code(int status) noexcept nogil


cdef enum:
    GRPC_CODES = 17

# What the end of an attempt says of its endpoint.
cdef enum verdict:
    VERDICT_NONE = 0                  # nothing: the client left
    VERDICT_GOOD
    VERDICT_FAULT                     # an answer of 5xx
    VERDICT_GATEWAY                   # 502, 503, 504, UNAVAILABLE, or no (whole) answer at all
    VERDICT_BUSY                      # 429, RESOURCE_EXHAUSTED: it refuses, which is no fault, but others do better

# The verdict on an attempt that ended with `status`, or that brought no answer to the end (not `ok`).
cdef int verdict_of(int status, bint ok) noexcept nogil
# The same of an answer with gRPC status `code`.
cdef int verdict_of_grpc(int code) noexcept nogil
# The same of an attempt that failed with this kind, without an answer.
cdef int verdict_of_failure(int kind) noexcept nogil
# Whether a gRPC status is the server's fault: it counts as 5xx does.
cdef bint is_fault(int code) noexcept nogil
# Whether a status is one that another endpoint may not give: 502, 503, 504.
cdef bint is_retryable(int status) noexcept nogil
# Whether an answer of this status is taken from a hedge while the first attempt still runs: no 5xx, no 429.
cdef bint is_good(int status) noexcept nogil
# The HTTP status that a REST client is told where a model server's answer is this gRPC status.
cdef int http_of_grpc(int code) noexcept nogil
