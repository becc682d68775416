"""Requests shared among pools by weight: canaries and splits."""

from libc.stdint cimport uint64_t
from lb.net.source_key cimport tg_prefixes
from lb.proxy.routing.conditions cimport tg_facts
from lb.upstream.pool cimport Pool


cdef class Split:
    cdef readonly tuple pools
    cdef uint64_t bounds[64]          # sums of the weights up to each pool, itself included
    cdef int count
    cdef int key_kind
    cdef tg_prefixes prefixes         # of the source, where that is the key
    cdef bytes key_name

    cdef Pool choose(self, tg_facts *facts)
