"""Which endpoint the sessions of a udp pool belong to, as all workers know it.

Two kinds of entries in the shared table of sessions: a client's flow, so that the successor of a worker that died goes
on with the same endpoint, and a connection id of QUIC, so that a client that changes its address does.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from lb.net.datagram cimport tg_flow_key
from lb.shared.affinity_table cimport AffinityTable
from lb.endpoints.set cimport EndpointSet
from lb.upstream.affinity.pool_affinity cimport PoolAffinity


ctypedef struct tg_server_id:
    uint64_t number
    int index                         # of the endpoint


@cython.final
cdef class FlowAffinity(PoolAffinity):
    """Flows of one listener with the pool."""

    cdef uint64_t key_of(self, const tg_flow_key *flow) noexcept nogil
    # The endpoint's index; -1 = unknown, or no longer of the pool.
    cdef int find(self, uint64_t key, uint64_t now) noexcept nogil


@cython.final
cdef class QuicAffinity(PoolAffinity):
    """Connection ids that the endpoints of a pool have chosen."""
    cdef size_t key_length            # bytes of a connection id that are looked up
    cdef size_t server_id_length      # 0 = connection ids name no endpoint
    cdef tg_server_id *server_ids     # sorted by number
    cdef Py_ssize_t server_id_count

    # The key of the connection id that a client's datagram goes to, 0 = too short; *named is the index of the endpoint
    # whose server id it has, else -1.
    cdef uint64_t destination(self, const unsigned char *data, size_t size, int *named) noexcept nogil
    # The key of the connection id by which the sender of a datagram wants to be called; 0 = it says none.
    cdef uint64_t source(self, const unsigned char *data, size_t size) noexcept nogil
    # The endpoint's index; -1 = unknown, or no longer of the pool. That is a use of the entry.
    cdef int find(self, uint64_t key, uint64_t now) noexcept nogil
    cdef int named(self, uint64_t number) noexcept nogil
