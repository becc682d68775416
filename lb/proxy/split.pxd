"""Requests shared among pools by weight: canaries and splits."""

from libc.stdint cimport uint64_t
from lb.proxy.conditions cimport tg_facts
from lb.upstream.pool cimport Pool


cdef class Split:
    cdef readonly tuple pools
    cdef uint64_t bounds[64]          # sums of the weights up to each pool, itself included
    cdef int count
    cdef int key_kind
    cdef bytes key_name

    cdef Pool choose(self, tg_facts *facts)
