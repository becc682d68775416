"""How an attempt at an endpoint can fail, and so whether another endpoint may be tried."""


cdef enum:
    FAIL_NONE = 0
    FAIL_CONNECT = 1                  # never sent: always safe to try again
    FAIL_REFUSED = 2                  # refused, GOAWAY below our stream, or closed before it came: not processed, safe
    FAIL_RESET = 3                    # the connection died with the request sent: safe only where repeating is
    FAIL_TIMEOUT = 4
    FAIL_PROTOCOL = 5                 # what came back is not the protocol
    FAIL_TOO_LARGE = 6                # the answer is over our limit
