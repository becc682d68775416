"""A worker's own socket of a udp listener: see listener.pxd.

A batch of datagrams is taken with one system call, sorted by session, and sent on with one call for each session that
it touched. Answers of all sessions gather over the poller's batch of events and leave with one call (udp_session.pyx).
"""

import os
from typing import TYPE_CHECKING

from libc.errno cimport EAGAIN
from libc.stdint cimport uint32_t, uint64_t
from posix.unistd cimport close
from lb.failure cimport FAIL_DENIED, FAIL_NONE, FAIL_UDP_CLOSED, FAIL_UDP_DOWN
from lb.shared.atomics cimport tg_fence_full
from lb.net.datagram cimport (
    MSG_TRUNC, TG_BATCH, mmsghdr, tg_datagram_prepare, tg_flow_key, tg_flow_same, tg_network_of, tg_request_data,
    tg_request_key, tg_request_reset, tg_requests, tg_requests_receive,
)
from lb.net.ip cimport ip_set, tg_ip
from lb.net.flows cimport tg_flow, tg_flows_add, tg_flows_find, tg_flows_reserve
from lb.shared.hashing cimport hash64_keyed
from lb.net.link cimport link_append, link_empty, tg_link
from lb.net.poller cimport Poller
from lb.shared.segment cimport Segment, tg_add, tg_get
from lb.shared.segment_words cimport (
    DATAGRAM_ENDED_CLOSED, DATAGRAM_ENDED_DOWN, DATAGRAM_READS, DATAGRAM_RECEIVED, DATAGRAM_RECEIVED_BYTES,
    LISTENER_CONNECTIONS, LISTENER_REJECTED, SERIES_FINISHED, SERIES_STARTED, UDP_LISTENER_DROPPED_DRAINING,
    UDP_LISTENER_DROPPED_DENIED, UDP_LISTENER_DROPPED_ERROR, UDP_LISTENER_DROPPED_RATE,
    UDP_LISTENER_DROPPED_RESOURCES, UDP_LISTENER_DROPPED_SESSIONS,
    UDP_LISTENER_DROPPED_SIZE, UDP_LISTENER_DROPPED_SOURCE,
)
from lb.shared.source_counts cimport SharedSources
from lb.proxy.accept.source_guard cimport guard_of
from lb.proxy.accept.source_limits cimport Sources
from lb.proxy.udp.pool cimport UdpPool, UdpSplit
from lb.proxy.udp.session cimport UdpBuffers, UdpSession, UdpSocket
from lb.telemetry.accesslog cimport AccessLog

from lb.proxy.accept.listener import network_of_plan, sources_scope

if TYPE_CHECKING:
    from lb.config.plan.plan import ListenerPlan

cdef enum:
    TURNS = 4                         # batches in a row before other sockets get theirs
    DRAIN_IDLE_NS = 1_000_000_000     # a session that is silent for so long does not hold up the daemon's end


cdef class UdpListener(UdpSocket):
    """`plan` is a ListenerPlan of protocol udp. Raises MemoryError when there is no room for the table of sessions."""

    def __init__(
        self, Poller poller, UdpBuffers buffers, AccessLog access, plan: ListenerPlan, Segment segment,
        upstream: UdpPool | UdpSplit
    ):
        self.poller = poller
        self.buffers = buffers
        self.access = access
        self.reserve(plan.udp.max_sessions)
        self.update(plan, segment, upstream)

    def reserve(self, Py_ssize_t sessions) -> None:
        """Make room for so many sessions, before a plan that allows them is taken into use."""
        cdef size_t wanted = <size_t>sessions
        if tg_flows_reserve(&self.flows, wanted) < 0:
            raise MemoryError

    def update(self, plan: ListenerPlan, Segment segment, upstream: UdpPool | UdpSplit) -> None:
        """Take over a new plan. Sessions keep their endpoint; limits and times are those of the new plan at once."""
        self.name = plan.name
        self.split = upstream if isinstance(upstream, UdpSplit) else None
        self.members = [upstream] if self.split is None else list(self.split.pools.values())
        self.by_id = any([(<UdpPool>member).quic is not None for member in self.members])
        self.segment = segment
        self.series_index = plan.series
        self.series = segment.series(plan.series)
        self.words = segment.series(plan.udp.series)
        self.idle_timeout = plan.idle_timeout_ns
        self.max_sessions = plan.udp.max_sessions
        self.max_per_source = plan.udp.max_sessions_per_source
        if self.network != network_of_plan(plan):     # sessions leave by the network that they came by
            self.network = network_of_plan(plan)
            self.sources = Sources(*self.network)
        self.guard = guard_of(plan, segment)
        if self.max_per_source and self.sources.table is None:
            self.sources.share(SharedSources(segment), sources_scope(plan))
        elif not self.max_per_source:
            self.sources.withdraw()
        self.max_datagram = plan.udp.max_datagram
        self.responses = plan.udp.responses
        self.most_requests = plan.udp.requests

    def start(self, int fd) -> None:
        """Take datagrams from the bound socket `fd`, which now belongs to the listener. Raises OSError, with `fd`
        closed."""
        cdef int failure = tg_datagram_prepare(fd, &self.wildcard, &self.own)
        try:
            if failure < 0:
                raise OSError(-failure, os.strerror(-failure))
            self.poller.add(self, fd, True)
        except OSError:
            close(fd)
            raise

    def drain(self) -> None:
        """Sessions that are silent end soon, so that idle ones do not hold up the daemon's end."""
        cdef UdpSession session
        cdef tg_link *node = self.sessions.next
        self.idle_timeout = min(self.idle_timeout, <uint64_t>DRAIN_IDLE_NS)
        while node != &self.sessions:
            session = <UdpSession>node.owner
            node = node.next
            session.touch()

    def leave(self) -> None:
        """Others read the socket now, and their sessions are those of all clients: here answers go on to their clients
        until they pause. Two that read one socket would take each other's datagrams. Raises OSError."""
        self.poller.ignore(self)
        self.drain()

    def close(self) -> None:
        """End every session and give up the socket."""
        cdef UdpSession session
        if self.buffers.answering is self:
            self.flush()
            self.buffers.answering = None
        while not link_empty(&self.sessions):
            session = <UdpSession>self.sessions.next.owner
            session.finish(DATAGRAM_ENDED_CLOSED, FAIL_UDP_CLOSED, True)
        self.poller.remove(self)

    cdef void on_ready(self, uint32_t events) noexcept:
        cdef int n, _turn
        for _turn in range(TURNS):            # level-triggered: what is left after them is told of again
            n = tg_requests_receive(&self.buffers.requests, self.fd, self.max_datagram)
            if n <= 0:
                if n < 0 and n != -EAGAIN:
                    tg_add(&self.words[UDP_LISTENER_DROPPED_ERROR], 1)
                return
            tg_add(&self.words[DATAGRAM_READS], 1)
            self.take(<unsigned int>n)
            if n < <int>TG_BATCH:
                return

    cdef void take(self, unsigned int count) noexcept:
        """Sort the batch by session, then send each session's share on."""
        cdef tg_requests *requests = &self.buffers.requests
        cdef mmsghdr *message
        cdef UdpSession session
        cdef tg_flow_key key
        cdef tg_flow_key previous
        cdef void *found = NULL
        cdef unsigned int i, touched = 0
        cdef uint64_t size = 0
        for i in range(count):
            message = &requests.messages[i]
            size += message.msg_len
            if message.msg_hdr.msg_flags & MSG_TRUNC:
                tg_add(&self.words[UDP_LISTENER_DROPPED_SIZE], 1)
                continue
            if tg_request_key(requests, i, self.wildcard, &key) < 0:
                tg_add(&self.words[UDP_LISTENER_DROPPED_ERROR], 1)
                continue
            if self.by_id:
                found = self.session_by_id(&key, tg_request_data(requests, i), message.msg_len)
                if found == NULL:
                    continue
            # Datagrams of one client often come in a row.
            elif found == NULL or not tg_flow_same(&key, &previous):
                found = self.session_of(&key)
                if found == NULL:
                    continue
                previous = key
            session = <UdpSession>found
            if session.tail < 0:
                requests.touched[touched] = found
                touched += 1
            session.append(i)
            if not session.bound:             # that was the last of its datagrams
                found = NULL
        tg_add(&self.words[DATAGRAM_RECEIVED], count)
        tg_add(&self.words[DATAGRAM_RECEIVED_BYTES], size)
        for i in range(touched):
            session = <UdpSession>requests.touched[i]
            session.forward()
        for i in range(count):
            tg_request_reset(requests, i)

    cdef void *session_of(self, const tg_flow_key *key) noexcept:
        cdef uint64_t hashed = hash64_keyed(key, sizeof(tg_flow_key), self.buffers.secret)
        cdef void *found = self.alive(tg_flows_find(&self.flows, key, hashed))
        return found if found != NULL else self.begin(key, hashed, None, -1)

    cdef void *alive(self, tg_flow *flow) noexcept:
        cdef UdpSession session
        if flow == NULL:
            return NULL
        session = <UdpSession>flow.owner
        # An endpoint that is down answers nobody. Not while the session has slots of a batch: they would be lost.
        if session.tail >= 0 or not session.upstream.down(session.index):
            return flow.owner
        session.finish(DATAGRAM_ENDED_DOWN, FAIL_UDP_DOWN, True)
        return NULL

    cdef void *session_by_id(self, const tg_flow_key *key, const unsigned char *data, size_t size) noexcept:
        cdef UdpPool upstream
        cdef uint64_t cid, hashed = hash64_keyed(key, sizeof(tg_flow_key), self.buffers.secret)
        cdef void *found = self.alive(tg_flows_find(&self.flows, key, hashed))
        cdef UdpSession session
        cdef tg_flow_key named
        cdef int index = -1
        if found != NULL:
            session = <UdpSession>found
            if session.cid and session.upstream.quic is not None:
                cid = session.upstream.quic.destination(data, size, &index)
                if cid == session.cid:
                    session.confirm()
                    return found
        upstream = self.pool_by_id(data, size, &index)
        if upstream is None:
            return found if found != NULL else self.begin(key, hashed, None, -1)
        if found == NULL:
            return self.begin(key, hashed, upstream, index)
        if session.upstream.slots[session.index] == upstream.slots[index]:
            return found
        # The flow is another connection's, too: of the client that had the address before, or of the same one.
        named = key[0]
        named.endpoint = upstream.slots[index] + 1
        hashed = hash64_keyed(&named, sizeof(tg_flow_key), self.buffers.secret)
        found = self.alive(tg_flows_find(&self.flows, &named, hashed))
        return found if found != NULL else self.begin(&named, hashed, upstream, index)

    cdef UdpPool pool_by_id(self, const unsigned char *data, size_t size, int *index):
        """The pool with the endpoint that the datagram's connection id is of, and that endpoint; None: nobody's."""
        cdef UdpPool member
        cdef uint64_t cid
        for member in self.members:
            if member.quic is None:
                continue
            cid = member.quic.destination(data, size, index)
            if cid and index[0] < 0:
                index[0] = member.quic.find(cid, self.poller.now)
            if index[0] >= 0 and member.keeps(index[0], self.poller.now):
                return member
        index[0] = -1
        return None

    cdef UdpPool pool_of(self, const tg_flow_key *key, uint64_t *kept, int *wanted):
        """The pool of a new session, the key of its flow, and the endpoint that the flow had with another worker."""
        cdef UdpPool member
        if key.endpoint:
            return self.split.choose(key) if self.split is not None else <UdpPool>self.members[0]
        for member in self.members:
            if member.flows is None:
                break
            kept[0] = member.flows.key_of(key)
            wanted[0] = member.flows.find(kept[0], self.poller.now)
            if wanted[0] >= 0:
                return member
        if self.split is None:
            return <UdpPool>self.members[0]
        member = self.split.choose(key)
        if member.flows is not None:
            kept[0] = member.flows.key_of(key)
        return member

    cdef uint64_t sessions_open(self) noexcept:
        """Sessions of all workers."""
        cdef uint64_t total = 0
        cdef unsigned int worker
        cdef uint64_t *words
        for worker in range(self.segment.header.workers):
            words = self.segment.series_of(<int>worker, self.series_index)
            total += tg_get(&words[SERIES_STARTED]) - tg_get(&words[SERIES_FINISHED])
        return total

    cdef bint enter(self) noexcept:
        """A place among the sessions of all workers. Of two that claim the last one at once at least one sees the other
        and gives its claim back; perhaps both do, and each has lost a datagram."""
        if self.sessions_open() >= self.max_sessions:
            return False
        tg_add(&self.series[SERIES_STARTED], 1)
        if self.segment.header.workers > 1:
            tg_fence_full()
            if self.sessions_open() > self.max_sessions:
                self.retire()
                return False
        return True

    cdef void retire(self) noexcept:
        tg_add(&self.series[SERIES_STARTED], <uint64_t>-1)

    cdef void *begin(self, const tg_flow_key *key, uint64_t hashed, UdpPool upstream, int wanted) noexcept:
        cdef UdpSession session
        cdef uint64_t kept = 0
        cdef uint32_t family
        cdef uint64_t network = tg_network_of(key, &family)
        cdef int fd, kind, index = -1
        cdef tg_ip address
        if self.guard is not None:
            ip_set(&address, key.family, key.address)
            kind = self.guard.judge(&address, self.poller.now)
            if kind != FAIL_NONE:
                self.refuse(UDP_LISTENER_DROPPED_DENIED if kind == FAIL_DENIED else UDP_LISTENER_DROPPED_RATE)
                return NULL
        if self.buffers.draining or not self.enter():
            self.refuse(UDP_LISTENER_DROPPED_DRAINING if self.buffers.draining else UDP_LISTENER_DROPPED_SESSIONS)
            return NULL
        if self.buffers.sessions >= self.buffers.most:
            self.retire()
            self.refuse(UDP_LISTENER_DROPPED_RESOURCES)
            return NULL
        session = UdpSession.__new__(UdpSession)
        if not self.sources.enter_network(network, family, self.max_per_source):
            self.retire()
            # Without a limit it is memory that was not there.
            self.refuse(UDP_LISTENER_DROPPED_SOURCE if self.max_per_source else UDP_LISTENER_DROPPED_RESOURCES)
            return NULL
        if upstream is None:
            upstream = self.pool_of(key, &kept, &wanted)
        elif upstream.flows is not None and not key.endpoint:
            kept = upstream.flows.key_of(key)
        fd = upstream.connect(key, &self.own, wanted, self.poller.now, &index)
        if fd < 0:
            self.retire()
            self.sources.leave_network(network, family)
            self.refuse(-fd)
            return NULL
        try:
            if upstream.sends_header and upstream.write_header(&session.header, key, &self.own) < 0:
                raise MemoryError
            self.poller.add_input(session, fd)
        except (OSError, MemoryError):        # the system's limit of watched descriptors, or memory
            close(fd)
            upstream.pool.release(index, self.poller.now, 0, True, 0, 0, 0)
            self.retire()
            self.sources.leave_network(network, family)
            self.refuse(UDP_LISTENER_DROPPED_RESOURCES)
            return NULL
        session.home = self
        session.sources = self.sources
        session.upstream = upstream
        session.index = index
        session.started = self.poller.now
        session.flow.key = key[0]
        session.flow.hash = hashed
        session.flow.owner = <void *>session
        session.link.owner = <void *>session
        session.bound = True
        session.kept = kept
        if kept:
            upstream.flows.begin(kept, index, self.poller.now)
        tg_flows_add(&self.flows, &session.flow)
        link_append(&self.sessions, &session.link)
        self.open += 1
        self.buffers.sessions += 1
        tg_add(&self.series[LISTENER_CONNECTIONS], 1)
        tg_add(&self.words[SERIES_STARTED], 1)
        tg_add(&upstream.words[index][SERIES_STARTED], 1)
        return <void *>session

    cdef void refuse(self, int word) noexcept:
        """A datagram of a flow that gets no session."""
        tg_add(&self.words[word], 1)
        tg_add(&self.series[LISTENER_REJECTED], 1)
