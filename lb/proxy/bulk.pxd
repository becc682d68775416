"""Long bodies between a client and an endpoint of HTTP/1.1, past this process: the kernel moves them through a pipe.

Where both speak in clear and neither body is chunked, kept for another try or answered already, nobody here has to see
the bytes. The parser is told how many they were, and gets the last of them as ever: it finds the end of the body.
"""

from lb.proxy.forward cimport ForwardExchange
from lb.upstream.http1 cimport Http1Upstream

# As `Exchange.pass_body` and `Http1Call.pass_answer`.
cdef Py_ssize_t pass_request(ForwardExchange exchange, size_t size) noexcept
cdef Py_ssize_t pass_response(ForwardExchange exchange, Http1Upstream upstream, size_t size) noexcept
