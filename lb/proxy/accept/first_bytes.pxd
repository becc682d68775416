"""The first bytes of a connection, where they say who the client is (PROXY protocol) or where it goes (ClientHello).

They are looked at and left in the kernel (MSG_PEEK); only a PROXY header is taken out, once it is whole. So nothing is
kept here, and whoever gets the connection finds its first byte where it expects it: a parser, a TLS stream, or a tunnel
that splices. See docs/adr/first-bytes.md.
"""

from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer
from lb.net.poller cimport Poller
from lb.net.proxy_header cimport tg_ends, tg_proxy
from lb.net.stream cimport Stream
from lb.proxy.accept.listener cimport Acceptor, Listener
from lb.upstream.pool cimport Pool


# What becomes of a connection. The table of steps is in first_bytes.pyx.
cdef enum:
    P_HEADER = 0                      # a PROXY header is awaited
    P_HELLO                           # a ClientHello is awaited
    P_LINGER                          # refused with an alert, which the client gets time to read
    P_DONE                            # handed over, or closed

# Why a connection was refused; the index into REFUSED of first_bytes.pyx.
cdef enum:
    R_UNTRUSTED = 0                   # a header, or with `required` anything, from a source that is not trusted
    R_MISSING                         # no header, though it is required
    R_MALFORMED
    R_SLOW                            # not whole in time
    R_NOT_TLS
    R_HELLO                           # TLS, but no ClientHello that may be understood
    R_NO_ROUTE
    R_FULL                            # the listener that takes the connection has its max_connections
    R_COUNT


cdef class FirstBytes:
    """What the first bytes said; kept by a tunnel until it has told its endpoint."""
    cdef Pool pool                    # chosen by the ClientHello, or None
    cdef bint terminate               # TLS ends here, as the ClientHello chose
    cdef bint proxied                 # `ends` are those of a PROXY header
    cdef tg_ends ends
    cdef tg_buffer header             # the PROXY header as it came, when it holds more than addresses
    cdef char sni[256]
    cdef size_t sni_length


cdef class Sniffer(Stream):
    cdef SniffingAcceptor home
    cdef Listener listener
    cdef FirstBytes first_bytes
    cdef unsigned char state          # P_…, changed by `move`
    cdef int sock                     # the descriptor, also before it is registered; -1 = not ours any more
    cdef bint trusted                 # the peer may send a PROXY header
    cdef bint ended                   # the peer shut down its side
    cdef bint heard                   # something has come
    cdef bint admitted                # the client is known, and its listener has counted it
    cdef bint by_path                 # a client of a Unix socket (`unix` is a macro of C)
    cdef uint64_t until               # the deadline of the state
    cdef char ip[46]
    cdef int ip_length
    cdef int port

    cdef void move(self, int state) noexcept
    cdef void look(self) noexcept
    cdef void look_for_header(self) noexcept
    cdef void look_for_hello(self) noexcept
    cdef Py_ssize_t peek(self, size_t size) noexcept
    cdef int consume(self, size_t size) noexcept
    cdef int believe(self, tg_proxy *header, size_t size) noexcept
    cdef void header_done(self) noexcept
    cdef bint admit(self) noexcept
    cdef void pass_to(self, Listener target) noexcept
    cdef void hand_over(self) noexcept
    cdef void refuse(self, int reason) noexcept
    cdef void refuse_with_alert(self, int reason, int description) noexcept
    cdef void count_refusal(self, int reason) noexcept
    cdef void read_away(self) noexcept
    cdef void drop(self) noexcept


cdef class SniffingAcceptor(Acceptor):
    cdef Poller poller
    cdef public object listeners      # the worker's listeners by name, some of which take connections of others
    cdef uint64_t refused[8]          # R_COUNT
    cdef unsigned char work[16384]    # HELLO_MAX: a ClientHello's pieces are joined here
