cimport cython
from libc.stdint cimport uint64_t

from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice


cdef class Guard(Policy):
    cdef readonly object inner
    cdef str name

    cdef int ask(self, Choice choice) except -2
    cpdef int pick(self, Choice choice) except -2
    cpdef void observe(self, int index, uint64_t now, uint64_t latency_ns, bint ok)
