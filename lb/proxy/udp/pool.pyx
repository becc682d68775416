"""A pool as a udp listener uses it: see pool.pxd.

A UDP endpoint that is gone says so only when something is sent to it, by an ICMP error that arrives with the session's
socket. That is passive health: noted in the endpoint's record of the shared segment, so that all workers go round it,
and forgotten at its next answer. Active checks decide whether it is up; who has none is asked again after a while.
"""

from typing import TYPE_CHECKING

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.unistd cimport close
from lb.failure cimport FAIL_NO_SOCKET
from lb.shared.atomics cimport tg_fetch_add32, tg_load32, tg_load32_relaxed, tg_store32_relaxed
from lb.net.datagram cimport (
    TG_FAIL_FULL, TG_FAIL_PEER, tg_datagram_connect, tg_datagram_join, tg_datagram_socket, tg_failure_of, tg_flow_key,
    tg_flow_local_unknown, tg_flow_mapped, tg_flow_port, tg_flow_text,
)
from lb.shared.segment cimport TG_HEALTH_DOWN, Segment, tg_add, tg_endpoint
from lb.shared.segment_words cimport (
    ENDPOINT_CONNECT_ERRORS, ENDPOINT_LOCAL_CONNECT_ERRORS, UDP_LISTENER_DROPPED_ERROR,
    UDP_LISTENER_DROPPED_NO_ENDPOINT, UDP_LISTENER_DROPPED_RESOURCES, UDP_LISTENER_DROPPED_UNREACHABLE,
)
from lb.shared.hashing cimport hash64
from lb.net.buffer cimport tg_buffer
from lb.net.ip cimport AF_INET, AF_INET6
from lb.net.proxy_header cimport proxy_write, tg_ends, tg_tlvs
from lb.net.source cimport SourceAddress, tg_source, tg_source_bind, tg_source_assign
from lb.net.source_key cimport hash_source
from lb.net.stream cimport Address
from lb.endpoints.choice cimport Choice
from lb.proxy.routing.split cimport Split
from lb.proxy.udp.affinity cimport FlowAffinity, QuicAffinity
from lb.upstream.connect_failure cimport failed_connect
from lb.upstream.pool cimport KEY_NONE, Pool
from lb.upstream.queue cimport TAKEN_FULL

if TYPE_CHECKING:
    from lb.config.plan.plan import ListenerPlan, PoolPlan

cdef enum:
    GONE_MOST = 8                     # endpoints that were not there, passed over in one choice
    AVOID_SECONDS = 10                # as nginx's fail_timeout


cdef class UdpPool:
    """`plan` is the PoolPlan of `pool`, whose channels are Addresses; `listener` the one that it is used by. Raises
    MemoryError."""

    def __init__(self, plan: PoolPlan, Pool pool, Segment segment, listener: ListenerPlan):
        cdef int i
        if self.words != NULL:
            raise RuntimeError("a UdpPool is initialised once")
        self.pool = pool
        self.words = <uint64_t **>calloc(len(plan.endpoints) + 1, sizeof(uint64_t *))
        self.slots = <uint32_t *>calloc(len(plan.endpoints) + 1, sizeof(uint32_t))
        if self.words == NULL or self.slots == NULL:
            raise MemoryError
        for i, endpoint in enumerate(plan.endpoints):
            self.words[i] = segment.series(endpoint.datagrams)
            self.slots[i] = endpoint.slot
        self.key_port, self.key_destination = plan.policy.source_port, plan.policy.source_destination
        self.sends_header = plan.send_proxy != ""
        if plan.quic is not None:
            self.quic = QuicAffinity(plan, pool.endpoints)
        if listener.udp.lasting:
            self.flows = FlowAffinity(
                plan, pool.endpoints, f"{listener.name} {listener.bind}", listener.idle_timeout_ns)

    def __dealloc__(self):
        free(self.words)
        free(self.slots)

    cdef int choose(self, uint64_t now, uint64_t key) noexcept:
        """As Pool.acquire, but past endpoints that were not there lately, if there is another."""
        cdef uint32_t second = <uint32_t>(now // 1_000_000_000)
        cdef Choice choice = self.pool.new_choice(now, key)
        cdef int other, gone = 0, index = self.pool.acquire(choice)
        if index < 0 or not self.missed(index, second):
            return index
        # The first stays counted in flight meanwhile: a policy that looks at the load is the less likely to insist.
        other = index
        while other >= 0 and self.missed(other, second) and gone < GONE_MOST:
            if other != index:
                self.pool.release(other, now, 0, True, 0, 0, 0)
            choice.rule_out(other)
            gone += 1
            other = self.pool.acquire(choice)
        if other < 0:
            return index
        self.pool.release(index, now, 0, True, 0, 0, 0)
        return other

    cdef bint missed(self, int index, uint32_t second) noexcept:
        return tg_load32_relaxed(&self.pool.endpoints.records[index].ejected_until_s) > second

    cdef uint64_t key_of(self, const tg_flow_key *key, const tg_flow_key *own) noexcept:
        cdef char text[46]
        cdef unsigned char parts[28]
        cdef uint64_t affinity
        if self.pool.key_kind == KEY_NONE:
            return 0
        # The address as text, as for TCP: a client's sessions of both kinds meet at one endpoint.
        affinity = hash_source(text, <size_t>tg_flow_text(key, text), &self.pool.prefixes)
        if not self.key_port and not self.key_destination:
            return affinity
        memcpy(parts, &affinity, 8)
        memset(parts + 8, 0, 2)
        if self.key_port:
            memcpy(parts + 8, &key.port, 2)
        if self.key_destination:
            if tg_flow_local_unknown(key):
                memcpy(parts + 10, own.local, 16)
            else:
                memcpy(parts + 10, key.local, 16)
            memcpy(parts + 26, &own.port, 2)
        return hash64(parts, 28 if self.key_destination else 10)

    cdef int write_header(self, tg_buffer *out, const tg_flow_key *key, const tg_flow_key *own) noexcept:
        cdef tg_ends ends
        cdef tg_tlvs tlvs
        cdef const tg_flow_key *there = own if tg_flow_local_unknown(key) else key
        cdef int width = 4 if key.family == AF_INET or tg_flow_mapped(key) else 16
        cdef int skip = 12 if tg_flow_mapped(key) else 0
        memset(&tlvs, 0, sizeof(tlvs))
        memset(&ends, 0, sizeof(ends))
        ends.family = AF_INET if width == 4 else AF_INET6
        memcpy(ends.source, key.address + skip, width)
        memcpy(ends.target, there.local + skip, width)
        ends.source_port = <uint16_t>tg_flow_port(key)
        ends.target_port = <uint16_t>tg_flow_port(own)
        return proxy_write(out, 2, &ends, &tlvs, self.pool.send_checksum, True)

    cdef bint keeps(self, int index, uint64_t now) noexcept:
        return self.pool.endpoints.keeps(index, 0) and not self.missed(index, <uint32_t>(now // 1_000_000_000))

    cdef int connect(self, const tg_flow_key *key, const tg_flow_key *own, int wanted, uint64_t now,
                     int *index) noexcept:
        cdef uint64_t affinity = self.key_of(key, own)
        cdef Address address
        cdef int fd, kind, turn
        for turn in range(self.pool.retries + 1):
            index[0] = -1
            if turn == 0 and wanted >= 0 and self.keeps(wanted, now):
                index[0] = self.pool.acquire_sticky(wanted, self.pool.new_choice(now, affinity))
                if index[0] == TAKEN_FULL:
                    return -UDP_LISTENER_DROPPED_NO_ENDPOINT
            if index[0] < 0 and key.endpoint:
                return -UDP_LISTENER_DROPPED_UNREACHABLE
            if index[0] < 0:
                index[0] = self.choose(now, affinity)
            if index[0] < 0:
                return -UDP_LISTENER_DROPPED_NO_ENDPOINT
            address = <Address>self.pool.channels[index[0]]
            fd = self.open_socket(address, key)
            if fd >= 0:
                return fd
            kind = tg_failure_of(-fd)
            if failed_connect(address.text, -fd, now) == FAIL_NO_SOCKET:
                kind = TG_FAIL_FULL
                tg_add(&self.pool.series[index[0]][ENDPOINT_LOCAL_CONNECT_ERRORS], 1)
            if kind != TG_FAIL_PEER:
                self.pool.release(index[0], now, 0, True, 0, 0, 0)
                return -UDP_LISTENER_DROPPED_RESOURCES if kind == TG_FAIL_FULL else -UDP_LISTENER_DROPPED_ERROR
            self.failed(index[0], now)
            self.pool.release(index[0], now, 1, False, 0, 0, 0)
        return -UDP_LISTENER_DROPPED_UNREACHABLE

    cdef int open_socket(self, Address address, const tg_flow_key *key) noexcept:
        """A socket connected to `address`, or minus an errno."""
        cdef SourceAddress bound
        cdef tg_source source
        cdef int fd, failed
        if not isinstance(address, SourceAddress):
            return tg_datagram_connect(address.family, <const void *>address.storage, address.length)
        bound = <SourceAddress>address
        source = bound.source
        if bound.client:
            if tg_flow_mapped(key):
                tg_source_assign(&source, AF_INET, key.address + 12)
            else:
                tg_source_assign(&source, key.family, key.address)
        fd = tg_datagram_socket(address.family)
        if fd < 0:
            return fd
        failed = tg_source_bind(&source, fd, address.family)
        if failed == 0:
            failed = tg_datagram_join(fd, <const void *>address.storage, address.length)
        if failed < 0:
            close(fd)
            return failed
        return fd

    cdef void failed(self, int index, uint64_t now) noexcept:
        cdef tg_endpoint *record = self.pool.endpoints.records[index]
        tg_add(&self.pool.series[index][ENDPOINT_CONNECT_ERRORS], 1)
        tg_fetch_add32(&record.consecutive_errors, 1)
        tg_store32_relaxed(&record.ejected_until_s, <uint32_t>(now // 1_000_000_000) + AVOID_SECONDS)

    cdef void answered(self, int index) noexcept:
        cdef tg_endpoint *record = self.pool.endpoints.records[index]
        # Look first: all workers read these words, and a write would take the line from them.
        if tg_load32_relaxed(&record.consecutive_errors):
            tg_store32_relaxed(&record.consecutive_errors, 0)
            tg_store32_relaxed(&record.ejected_until_s, 0)

    cdef bint down(self, int index) noexcept:
        return tg_load32(&self.pool.endpoints.records[index].health) == TG_HEALTH_DOWN


cdef class UdpSplit:
    """`split` is a Split of the pools of `pools`, which has each one's UdpPool by its name."""

    def __init__(self, Split split, pools: dict[str, UdpPool]) -> None:
        self.split = split
        self.pools = pools

    cdef UdpPool choose(self, const tg_flow_key *key):
        cdef char text[46]
        cdef Pool pool = self.split.choose_for(text, <size_t>tg_flow_text(key, text))
        return <UdpPool>self.pools[pool.name]
