"""Who takes up the connections of listeners that speak HTTP."""

from lb.proxy.admission cimport Intake
from lb.proxy.listener cimport Acceptor


cdef class HttpAcceptor(Acceptor):
    cdef Intake intake
