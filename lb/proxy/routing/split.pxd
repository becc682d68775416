"""Requests, connections and sessions shared among pools by weight: canaries and splits."""

from libc.stdint cimport uint64_t
from lb.net.source_key cimport tg_prefixes
from lb.proxy.routing.conditions cimport tg_facts
from lb.proxy.routing.text_key cimport TextKey
from lb.proxy.routing.values.format cimport Format, RequestValues
from lb.upstream.pool cimport Pool


cdef class Split:
    cdef readonly tuple pools
    cdef uint64_t bounds[64]          # sums of the weights up to each pool, itself included
    cdef int count
    cdef int key_kind
    cdef tg_prefixes prefixes         # of the source, where that is the key
    cdef bytes key_name
    cdef int key_depth                # as in Pool
    cdef int key_length
    cdef TextKey key_text             # None: its key is no text
    cdef Format by                    # a text that names the pool; None: there is none
    cdef RequestValues wanted         # what that asks for
    cdef dict named                   # name -> Pool
    cdef size_t fixed                 # bytes of the text that are the same for every request
    cdef uint64_t quiet_until         # no further line about an unknown name before

    # `series` and `route` are of the route: who has named a pool that it does not have is counted there.
    cdef Pool choose(self, tg_facts *facts, uint64_t *series, str route)
    # That of a connection from the address `ip` as text; a Unix socket has none.
    cdef Pool choose_for(self, const char *ip, size_t n)
    # That of a key, and that of a place below the sum of the weights.
    cdef Pool at_key(self, uint64_t key)
    cdef Pool at(self, uint64_t place)
    cdef Pool by_name(self, tg_facts *facts, uint64_t *series, str route)
    # The key that keeps like requests together. False: the request has none.
    cdef bint find_key(self, tg_facts *facts, uint64_t *key) noexcept


# The pool that `table` gives a connection from the address `ip`: a Pool itself, or one of a Split.
cdef Pool pool_for(object table, const char *ip, size_t n)
