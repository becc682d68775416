"""Who takes up the connections of listeners that speak HTTP."""

from lb.proxy.exchange.admission cimport Admission
from lb.proxy.accept.listener cimport Acceptor


cdef class HttpAcceptor(Acceptor):
    cdef Admission admission
