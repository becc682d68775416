"""A connection to an endpoint that is one client's alone.

NTLM and Negotiate (RFC 4559 section 6) authenticate a connection, not a request: whoever sends the next request through
it is taken for the same user. A connection that has carried one of them is therefore never another client's. A client
of HTTP/1.1 keeps it for as long as it stays, and its requests keep to that endpoint, since the handshake takes several.
For a client of HTTP/2, which has no such schemes, it is closed behind the answer.
"""

from lb.core.head cimport Scan
from lb.proxy.forward cimport ForwardExchange
from lb.proxy.http1_answer cimport AnsweringConnection
from lb.upstream.http1 cimport Http1Pool, Http1Upstream

# Whether a request brings proof of such a scheme; whether an answer asks for it.
cdef bint brings_proof(const Scan *scan) noexcept nogil
cdef bint asks_for_proof(const Scan *scan) noexcept nogil
# The exchange's client has a connection of its own in this pool: the exchange keeps to its endpoint.
cdef void keep_to_own(ForwardExchange exchange) noexcept
# The client's own connection, which is the exchange's now, if it is of `channel`; another is dropped. None: none.
cdef Http1Upstream take_own(ForwardExchange exchange, Http1Pool channel)
# The exchange is over, and its connection its client's own.
cdef void give_own(ForwardExchange exchange, Http1Upstream upstream) noexcept
# The client leaves.
cdef void drop_own(AnsweringConnection client) noexcept
