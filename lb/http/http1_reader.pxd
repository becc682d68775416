"""One answer of HTTP/1.1 for callers in Python, judged as workers judge it (lb.upstream.connections.http1,
lb.proxy.exchange.forward)."""

from lb.http.http1 cimport Parser


cdef class AnswerReader:
    cdef Parser parser
    cdef size_t max_head
    cdef bytes kept                   # of a head that is not complete
    cdef readonly int status          # of the final answer; 0 = its head has not come
    cdef readonly bint complete       # the answer is here, body and all
