"""A UDP session: see session.pxd.

There is one set of buffers for a worker, and nothing waits in it beyond the poller's batch of events: what the kernel
does not take at once is dropped and counted, as a router would.
"""

import os

from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from lb.failure cimport FAIL_NONE, FAIL_UDP_NO_ANSWER, FAIL_UDP_REFUSED, failure_of
from lb.shared.counters cimport count_duration
from lb.net.buffer cimport tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.net.datagram cimport (
    MSG_TRUNC, TG_BATCH, TG_FAIL_FULL, TG_FAIL_PEER, TG_LAST, tg_answer_data, tg_answer_put, tg_answers,
    tg_answers_close, tg_answers_open, tg_answers_receive, tg_answers_send, tg_answers_size, tg_failure_of,
    tg_flow_key, tg_flow_port, tg_flow_text, tg_network_of, tg_requests_close, tg_requests_open, tg_train_add,
    tg_train_send, tg_train_size,
)
from lb.net.flows cimport tg_flows_free, tg_flows_remove
from lb.net.link cimport link_init, link_remove
from lb.net.poller cimport Source, monotonic_ns
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport (
    ANSWER_RECEIVED_BYTES, ANSWER_REQUESTS_OTHER, ANSWER_SENT_BYTES, DATAGRAM_ENDED_ANSWERED, DATAGRAM_ENDED_IDLE,
    DATAGRAM_ENDED_REFUSED, DATAGRAM_READS, DATAGRAM_RECEIVED, DATAGRAM_RECEIVED_BYTES, DATAGRAM_SENT,
    DATAGRAM_SENT_BYTES, DATAGRAM_WRITES, ENDPOINT_TIMEOUTS, LISTENER_RECEIVED_BYTES, LISTENER_SENT_BYTES,
    LISTENER_SESSION_DURATION, SERIES_FINISHED, UDP_LISTENER_DROPPED_CLIENT_FULL, UDP_LISTENER_DROPPED_ENDPOINT_FULL,
    UDP_LISTENER_DROPPED_ERROR, UDP_LISTENER_DROPPED_SIZE, UDP_LISTENER_DROPPED_UNREACHABLE,
)
from lb.telemetry.accesslog cimport (
    A_CLIENT, A_ENDPOINT, A_LISTENER, A_METHOD, A_POOL, A_REASON, set_object, set_text, tg_access, wall_ns,
)
from lb.upstream.pool cimport Pool

cdef enum:
    READS = 16                        # answers of a session that one system call takes
    TURNS = 4                         # such calls before others get their turn
    RENEWALS = 4                      # of an affinity entry in the time for which it lasts


cdef class UdpBuffers:
    """Raises MemoryError. The room, some 4 MiB each way, is address space: pages come with their first use."""

    def __cinit__(self, Py_ssize_t most):
        self.most = most
        cdef bytes secret = os.urandom(16)
        memcpy(self.secret, <const char *>secret, 16)
        if tg_requests_open(&self.requests) < 0 or tg_answers_open(&self.answers) < 0:
            raise MemoryError

    def __dealloc__(self):
        tg_requests_close(&self.requests)
        tg_answers_close(&self.answers)

    def drain(self) -> None:
        """No new sessions from now on."""
        self.draining = True


cdef class UdpSocket(Source):

    def __cinit__(self):
        link_init(&self.sessions)

    def __dealloc__(self):
        tg_flows_free(&self.flows)

    cdef void *session_of(self, const tg_flow_key *key) noexcept:
        return NULL

    cdef void on_flush(self) noexcept:
        if self.buffers.answering is self:
            self.flush()

    cdef void claim(self) noexcept:
        cdef UdpSocket other = self.buffers.answering
        if other is self:
            return
        if other is not None:
            other.flush()
        self.buffers.answering = self

    cdef void flush(self) noexcept:
        """Send the answers that have gathered; those that the kernel does not take are gone."""
        cdef tg_answers *answers = &self.buffers.answers
        cdef unsigned int first = 0
        cdef int n
        while first < answers.used:
            n = tg_answers_send(answers, self.fd, first)
            if n > 0:
                tg_add(&self.words[DATAGRAM_WRITES], 1)
                tg_add(&self.words[DATAGRAM_SENT], <uint64_t>n)
                tg_add(&self.words[DATAGRAM_SENT_BYTES], tg_answers_size(answers, first, first + <unsigned int>n))
                first += <unsigned int>n
            elif tg_failure_of(-n) == TG_FAIL_FULL:
                tg_add(&self.words[UDP_LISTENER_DROPPED_CLIENT_FULL], answers.used - first)
                break
            else:
                tg_add(&self.words[UDP_LISTENER_DROPPED_ERROR], 1)
                first += 1                    # it was about that one; the rest may go
        answers.used = 0
        answers.slot = 0


cdef class UdpSession(Source):

    def __cinit__(self):
        self.head = -1
        self.tail = -1
        self.index = -1

    def __dealloc__(self):
        tg_buffer_free(&self.header)

    cdef void on_ready(self, uint32_t events) noexcept:
        self.take_answers()

    cdef void on_flush(self) noexcept:
        self.take_answers()

    cdef void on_timer(self) noexcept:
        cdef bint silent = self.answered == 0 and self.home.responses != 0
        if self.over:
            return
        if silent:
            tg_add(&self.upstream.pool.series[self.index][ENDPOINT_TIMEOUTS], 1)
        self.finish(DATAGRAM_ENDED_IDLE, FAIL_UDP_NO_ANSWER if silent else FAIL_NONE, True)

    cdef void touch(self) noexcept:
        self.poller.arm(self, self.poller.now + self.home.idle_timeout)
        if self.renew_at <= self.poller.now and (self.kept or self.cid_learned):
            self.renew()

    cdef void renew(self) noexcept:
        cdef uint64_t now = self.poller.now
        cdef uint64_t after = self.home.idle_timeout
        if self.kept:
            self.upstream.flows.touch(self.kept, now)
        if self.cid_learned:
            self.upstream.quic.touch(self.cid, now)
            after = min(after, self.upstream.quic.idle)
        self.renew_at = now + after // RENEWALS

    cdef void confirm(self) noexcept:
        if not self.cid_learned:
            self.cid_learned = True
            self.upstream.quic.begin(self.cid, self.index, self.poller.now)
            self.renew_at = 0

    cdef void count_asked(self, unsigned int more) noexcept:
        self.asked += more
        if self.home.most_requests and self.asked >= self.home.most_requests:
            self.unbind()                     # its client's next datagram begins another one

    cdef void append(self, unsigned int slot) noexcept:
        cdef UdpBuffers buffers = self.home.buffers
        if self.tail < 0:
            self.head = <int>slot
        else:
            buffers.requests.next[self.tail] = <unsigned char>slot
        self.tail = <int>slot
        buffers.requests.next[slot] = <unsigned char>TG_LAST
        self.count_asked(1)

    cdef void forward(self) noexcept:
        cdef UdpBuffers buffers = self.home.buffers
        cdef unsigned int count = 0
        cdef unsigned int slot = <unsigned int>self.head
        while slot != TG_LAST:
            tg_train_add(
                &buffers.train, count, &buffers.requests, slot, tg_buffer_head(&self.header),
                tg_buffer_size(&self.header))
            slot = buffers.requests.next[slot]
            count += 1
        self.head = -1
        self.tail = -1
        self.send(0, count, True)

    cdef void send(self, unsigned int first, unsigned int end, bint again) noexcept:
        """Send the train's datagrams from `first` to before `end`; `again` says that another endpoint may get them."""
        cdef UdpSocket home = self.home
        cdef UdpSession other
        cdef uint64_t *words = self.upstream.words[self.index]
        cdef uint64_t size
        cdef void *found = NULL
        cdef tg_flow_key key
        cdef int n, kind
        while first < end:
            n = tg_train_send(&home.buffers.train, self.fd, first, end)
            if n > 0:
                size = tg_train_size(&home.buffers.train, first, first + <unsigned int>n)
                tg_add(&words[DATAGRAM_WRITES], 1)
                tg_add(&words[DATAGRAM_SENT], <uint64_t>n)
                tg_add(&words[DATAGRAM_SENT_BYTES], size)
                self.bytes_in += size
                first += <unsigned int>n
                continue
            kind = tg_failure_of(-n)
            if kind == TG_FAIL_PEER:
                # The kernel tells of an earlier datagram. These have not been sent: another endpoint may get them.
                self.refused()
                if again:
                    key = self.flow.key
                    key.endpoint = 0          # the one that it names is gone
                    found = home.session_of(&key)
                if found == NULL:
                    tg_add(&home.words[UDP_LISTENER_DROPPED_UNREACHABLE], end - first)
                    return
                other = <UdpSession>found
                other.count_asked(end - first)
                other.send(first, end, False)  # the client is the same, and so is its PROXY header
                return
            if kind == TG_FAIL_FULL:
                tg_add(&home.words[UDP_LISTENER_DROPPED_ENDPOINT_FULL], end - first)
                break
            tg_add(&home.words[UDP_LISTENER_DROPPED_ERROR], 1)
            first += 1
        self.touch()
        if self.complete():
            self.finish(DATAGRAM_ENDED_ANSWERED, FAIL_NONE, True)

    cdef void take_answers(self) noexcept:
        """Read what the endpoint has sent, until there is no more or others have waited long enough."""
        cdef UdpSocket home = self.home
        cdef tg_answers *answers
        cdef unsigned int first, want
        cdef int n, _turn
        if self.over:
            return
        home.claim()
        answers = &home.buffers.answers
        for _turn in range(TURNS):
            if answers.slot == TG_BATCH:
                home.flush()
            first = answers.slot
            want = min(<unsigned int>READS, <unsigned int>TG_BATCH - first)
            n = tg_answers_receive(answers, self.fd, want, home.max_datagram)
            if n == -EAGAIN:
                break
            if n < 0:
                if tg_failure_of(-n) == TG_FAIL_PEER:
                    self.refused()
                    return
                tg_add(&home.words[UDP_LISTENER_DROPPED_ERROR], 1)
                continue                      # the error is taken; what is behind it is not
            self.pass_on(first, first + <unsigned int>n)
            if self.complete():
                self.finish(DATAGRAM_ENDED_ANSWERED, FAIL_NONE, True)
                return
            if <unsigned int>n < want:
                break                         # drained: the edge will tell
        else:
            self.poller.defer(self)
        self.touch()

    cdef void pass_on(self, unsigned int first, unsigned int end) noexcept:
        """Prepare the answers in the slots from `first` to before `end` for the client."""
        cdef UdpSocket home = self.home
        cdef tg_answers *answers = &home.buffers.answers
        cdef uint64_t *words = self.upstream.words[self.index]
        cdef uint64_t size = 0
        cdef unsigned int slot
        for slot in range(first, end):
            size += answers.reads[slot].msg_len
            if answers.reads[slot].msg_hdr.msg_flags & MSG_TRUNC:
                tg_add(&home.words[UDP_LISTENER_DROPPED_SIZE], 1)
            else:
                tg_answer_put(answers, slot, &self.flow.key, home.wildcard)
                if self.upstream.quic is not None:
                    self.read_id(tg_answer_data(answers, slot), answers.reads[slot].msg_len)
        self.poller.mark(home)
        if self.answered == 0:
            self.first_answer = self.poller.now
            self.upstream.answered(self.index)
        self.answered += end - first
        self.bytes_out += size
        tg_add(&words[DATAGRAM_READS], 1)
        tg_add(&words[DATAGRAM_RECEIVED], end - first)
        tg_add(&words[DATAGRAM_RECEIVED_BYTES], size)

    cdef void read_id(self, const unsigned char *data, size_t size) noexcept:
        """The connection id by which the endpoint wants to be called: it is learned when the client has used it, so
        that forged senders, who do not see it, fill no table."""
        cdef uint64_t cid = self.upstream.quic.source(data, size)
        if cid and cid != self.cid:
            self.cid = cid
            self.cid_learned = False

    cdef bint complete(self) noexcept:
        """Whether every answer that is expected is there, as nginx's proxy_responses and proxy_requests have it."""
        cdef UdpSocket home = self.home
        if home.responses < 0 or (home.most_requests and self.asked < home.most_requests):
            return False
        return self.answered >= <uint64_t>home.responses * self.asked

    cdef void unbind(self) noexcept:
        if self.bound:
            self.bound = False
            tg_flows_remove(&self.home.flows, &self.flow)

    cdef void refused(self) noexcept:
        """An ICMP error came back: nobody is there."""
        self.upstream.failed(self.index, self.poller.now)
        self.finish(DATAGRAM_ENDED_REFUSED, FAIL_UDP_REFUSED, False)

    cdef void finish(self, int word, int kind, bint ok) noexcept:
        cdef UdpSocket home = self.home
        cdef Pool pool = self.upstream.pool
        cdef uint64_t *words = pool.series[self.index]
        cdef uint64_t network, now, took, latency = 0
        cdef uint32_t family
        if self.over:
            return
        self.over = True
        self.unbind()
        if self.kept:
            self.upstream.flows.end(self.kept)
        link_remove(&self.link)
        network = tg_network_of(&self.flow.key, &family)
        self.sources.leave_network(network, family)
        now = monotonic_ns()
        took = now - self.started
        # A policy learns from the time to the first answer, and that there was nobody. Silence says nothing.
        if self.answered:
            latency = max(self.first_answer - self.started, <uint64_t>1)
        elif not ok:
            latency = max(took, <uint64_t>1)
        tg_add(&words[ANSWER_REQUESTS_OTHER], 1)
        tg_add(&words[ANSWER_RECEIVED_BYTES], self.bytes_out)
        tg_add(&words[ANSWER_SENT_BYTES], self.bytes_in)
        pool.release(self.index, now, latency, ok, 0, 0, 0)
        words = self.upstream.words[self.index]
        tg_add(&words[SERIES_FINISHED], 1)
        tg_add(&words[word], 1)
        words = home.words
        tg_add(&words[SERIES_FINISHED], 1)
        tg_add(&words[word], 1)
        words = home.series
        tg_add(&words[SERIES_FINISHED], 1)
        tg_add(&words[LISTENER_RECEIVED_BYTES], self.bytes_in)
        tg_add(&words[LISTENER_SENT_BYTES], self.bytes_out)
        count_duration(&words[LISTENER_SESSION_DURATION], took)
        home.open -= 1
        home.buffers.sessions -= 1
        if home.access.enabled:
            self.log_access(took, kind)
        self.poller.remove(self)

    cdef void log_access(self, uint64_t took, int kind) noexcept:
        cdef tg_access *record = self.home.access.begin()
        cdef char text[46]
        cdef int length
        if record == NULL:
            return
        record.wall_ns = wall_ns() - <int64_t>took
        record.total_ns = took
        if self.answered:
            record.upstream_ns = self.first_answer - self.started
            record.transfer_ns = took - record.upstream_ns
        record.attempts = 1
        record.port = <uint16_t>tg_flow_port(&self.flow.key)
        record.bytes_in = self.bytes_in
        record.bytes_out = self.bytes_out
        length = tg_flow_text(&self.flow.key, text)
        set_text(record, A_CLIENT, text, <size_t>length)
        set_text(record, A_METHOD, b"UDP", 3)
        set_object(record, A_LISTENER, self.home.name)
        set_object(record, A_POOL, self.upstream.pool.name)
        set_object(record, A_ENDPOINT, self.upstream.pool.endpoints.addresses[self.index])
        if kind:
            set_text(record, A_REASON, failure_of(kind).reason, <size_t>failure_of(kind).reason_length)
        self.home.access.commit()
