"""A UDP session: what a client's address and port have to do with one endpoint."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from lb.net.buffer cimport tg_buffer
from lb.net.datagram cimport tg_answers, tg_flow_key, tg_requests, tg_train
from lb.net.flows cimport tg_flow, tg_flows
from lb.net.link cimport tg_link
from lb.net.poller cimport Source
from lb.proxy.accept.source_limits cimport Sources
from lb.proxy.udp.pool cimport UdpPool
from lb.telemetry.accesslog cimport AccessLog


cdef class UdpBuffers:
    """What all udp listeners of a worker share: its only buffers, and whose answers wait in them."""
    cdef tg_requests requests
    cdef tg_train train
    cdef tg_answers answers
    cdef UdpSocket answering
    cdef unsigned char secret[16]     # of the hash of flows
    cdef readonly Py_ssize_t sessions
    cdef readonly Py_ssize_t most     # sessions of all listeners together
    cdef bint draining


cdef class UdpSocket(Source):
    """The clients' side of sessions: a listener's socket with its limits and counters. UdpListener is the only one."""
    cdef readonly str name
    cdef UdpBuffers buffers
    cdef AccessLog access
    cdef uint64_t *series             # of the listener, as for TCP (LISTENER of words.py)
    cdef uint64_t *words              # of its datagrams (UDP_LISTENER of words.py)
    cdef uint64_t idle_timeout
    cdef size_t max_datagram
    cdef int64_t responses            # answers to each of the client's datagrams, -1 = not known
    cdef uint64_t most_requests       # the client's datagrams in a session, 0 = any number
    cdef int wildcard                 # the socket has every address
    cdef tg_flows flows
    cdef Sources sources              # sessions by network
    cdef tg_link sessions
    cdef readonly Py_ssize_t open

    # The session of a flow, a new one if need be; NULL when there can be none (counted). Borrowed: the poller holds it.
    cdef void *session_of(self, const tg_flow_key *key) noexcept
    # The answers that gather from now on are this socket's.
    cdef void claim(self) noexcept
    cdef void flush(self) noexcept


cdef class UdpSession(Source):
    """A socket connected to an endpoint; kept alive by the poller until it is over."""
    cdef UdpSocket home
    cdef UdpPool upstream             # of the plan it began under
    cdef tg_flow flow
    cdef bint bound                   # found by its flow
    cdef tg_link link                 # among the listener's sessions
    cdef Sources sources              # that it counts in
    cdef int index                    # of the endpoint
    cdef int head                     # the first and the last slot of the batch under way that are of this session,
    cdef int tail                     # -1 = none
    cdef uint64_t started
    cdef uint64_t first_answer
    cdef uint64_t asked               # datagrams from the client
    cdef uint64_t answered            # datagrams from the endpoint
    cdef uint64_t bytes_in
    cdef uint64_t bytes_out
    cdef bint over
    cdef uint64_t kept                # key of the flow's entry in the affinity table, 0 = it has none
    cdef uint64_t cid                 # key of the connection id that the endpoint has chosen last, 0 = none is known
    cdef bint cid_learned             # the client has used it, and the affinity table has it
    cdef uint64_t renew_at            # when the entries of both are to be renewed
    cdef tg_buffer header             # of the PROXY protocol, in front of each datagram to the endpoint; empty = none

    # Appends a slot of the batch under way; the first one's caller remembers the session for `forward`.
    cdef void append(self, unsigned int slot) noexcept
    # Sends on what was appended.
    cdef void forward(self) noexcept
    # Closes the socket and gives everything back. `word` counts the end, `kind` (lb.failure; FAIL_NONE: it went well)
    # is why for the access log, and `ok` says that the endpoint did its part.
    cdef void finish(self, int word, int kind, bint ok) noexcept
    cdef void touch(self) noexcept
    # The client has sent to the connection id `cid`: its entry is made, where it has none.
    cdef void confirm(self) noexcept
    cdef void renew(self) noexcept
    cdef void unbind(self) noexcept
    cdef void count_asked(self, unsigned int more) noexcept
    cdef void send(self, unsigned int first, unsigned int end, bint again) noexcept
    cdef void take_answers(self) noexcept
    cdef void pass_on(self, unsigned int first, unsigned int end) noexcept
    cdef void read_id(self, const unsigned char *data, size_t size) noexcept
    cdef bint complete(self) noexcept
    cdef void refused(self) noexcept
    cdef void log_access(self, uint64_t took, int kind) noexcept
