"""Who takes up the connections of listeners that carry TCP, and lends the sessions pipes for bulk."""

from lb.core.poller cimport Poller
from lb.core.splice cimport Pipe
from lb.proxy.listener cimport Acceptor


cdef class TunnelAcceptor(Acceptor):
    cdef Poller poller
    cdef Py_ssize_t busy
    cdef list pipes                   # empty ones, for whoever has bulk next

    cdef Pipe take_pipe(self)
    cdef void give_pipe(self, Pipe pipe) noexcept
