"""Which endpoint the sessions of a udp pool belong to: see affinity.pxd, and docs/adr/quic.md for the reasons."""

from typing import TYPE_CHECKING

cimport cython
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from lb.net.datagram cimport tg_flow_key
from lb.net.quic cimport (
    TG_QUIC_FIRST, TG_QUIC_LONG, TG_QUIC_NONE, TG_QUIC_SHORT, tg_quic_ids, tg_quic_number, tg_quic_read,
)
from lb.shared.affinity_table cimport AffinityTable
from lb.endpoints.set cimport EndpointSet
from lb.upstream.affinity.pool_affinity cimport PoolAffinity, mix_key

if TYPE_CHECKING:
    from lb.config.plan.plan import PoolPlan


@cython.final
cdef class FlowAffinity(PoolAffinity):
    """Flows that the listener `name` has with the endpoints of the pool `plan`; an entry lasts `idle` ns without a
    use. Raises MemoryError."""

    def __init__(self, plan: PoolPlan, EndpointSet endpoints not None, name: str, uint64_t idle):
        self.keep(plan, endpoints, AffinityTable(endpoints.segment, True), f"{plan.name}\0flow\0{name}".encode(), idle)

    cdef uint64_t key_of(self, const tg_flow_key *flow) noexcept nogil:
        return mix_key(self.table, self.salt, <const char *>flow, sizeof(tg_flow_key))

    cdef int find(self, uint64_t key, uint64_t now) noexcept nogil:
        return self.index_of(self.table.find(key, now, self.idle))


@cython.final
cdef class QuicAffinity(PoolAffinity):
    """Connection ids of the pool `plan`, whose `quic` is set. Raises MemoryError."""

    def __init__(self, plan: PoolPlan, EndpointSet endpoints not None):
        cdef int i
        if self.server_ids != NULL:
            raise RuntimeError("a QuicAffinity is initialised once")
        self.keep(plan, endpoints, AffinityTable(endpoints.segment, True), f"{plan.name}\0quic".encode(),
                  plan.quic.idle_ns)
        self.key_length = plan.quic.key_length
        self.server_id_length = plan.quic.server_id_length
        named = sorted((int(e.server_id, 16), i) for i, e in enumerate(plan.endpoints) if e.server_id)
        self.server_ids = <tg_server_id *>calloc(<size_t>len(named) + 1, sizeof(tg_server_id))
        if self.server_ids == NULL:
            raise MemoryError
        for i, (number, index) in enumerate(named):
            self.server_ids[i].number = number
            self.server_ids[i].index = index
        self.server_id_count = len(named)

    def __dealloc__(self):
        free(self.server_ids)

    cdef uint64_t destination(self, const unsigned char *data, size_t size, int *named) noexcept nogil:
        cdef tg_quic_ids ids
        cdef int form = tg_quic_read(data, size, &ids)
        named[0] = -1
        if form == TG_QUIC_NONE:
            return 0
        # What a client made up names nobody: it would choose its endpoint.
        if (self.server_id_length and (form == TG_QUIC_SHORT or form == TG_QUIC_LONG)
                and ids.destination_length > self.server_id_length):
            named[0] = self.named(tg_quic_number(ids.destination + 1, self.server_id_length))
        if ids.destination_length < self.key_length:
            return 0
        return mix_key(self.table, self.salt, <const char *>ids.destination, self.key_length)

    cdef uint64_t source(self, const unsigned char *data, size_t size) noexcept nogil:
        cdef tg_quic_ids ids
        cdef int form = tg_quic_read(data, size, &ids)
        if (form != TG_QUIC_LONG and form != TG_QUIC_FIRST) or ids.source_length < self.key_length:
            return 0
        return mix_key(self.table, self.salt, <const char *>ids.source, self.key_length)

    cdef int find(self, uint64_t key, uint64_t now) noexcept nogil:
        return self.index_of(self.table.find(key, now, self.idle))

    cdef int named(self, uint64_t number) noexcept nogil:
        """The endpoint with this server id, -1 = none."""
        cdef Py_ssize_t low = 0, high = self.server_id_count, middle
        while low < high:
            middle = (low + high) // 2
            if self.server_ids[middle].number < number:
                low = middle + 1
            else:
                high = middle
        if low < self.server_id_count and self.server_ids[low].number == number:
            return self.server_ids[low].index
        return -1
