"""Who takes up the connections of listeners that speak HTTP."""

from lb.proxy.exchange.admission cimport Intake
from lb.proxy.accept.listener cimport Acceptor


cdef class HttpAcceptor(Acceptor):
    cdef Intake intake
