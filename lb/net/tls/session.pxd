"""TLS between a stream and its socket. Knows nothing of the poller; a stream calls it where it would call the socket.

OpenSSL reads the socket through a BIO of ours that calls recv, so that records are decrypted straight into the caller's
buffer; what it writes is gathered over a call and sent at once. It can therefore never stop in the middle of a write:
the only thing it ever waits for is input.
"""

from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer
from lb.net.iovec cimport iovec
from lb.net.tls.certificate cimport CertificateInfo
from lb.net.tls.openssl cimport SSL
from lb.net.tls.context cimport ServerContext
from lb.net.tls.peer cimport Peer


cdef enum:
    TLS_AGAIN = -1                    # as IO_AGAIN and IO_ERROR of lb.net.stream
    TLS_ERROR = -2


cdef class Tls:
    cdef SSL *ssl
    cdef int fd                       # the stream's, which owns it
    cdef int error                    # errno of the last failure
    cdef readonly bint handshaking
    cdef bint failed                  # nothing more can be read or written
    cdef bint ended                   # the peer's close_notify has come
    cdef bint closed                  # ours has gone
    cdef bint reading                 # inside of SSL_read_ex
    cdef bint dry                     # the last recv took all there was: the poller will tell of more
    cdef bint eof                     # the socket's end was read
    cdef bint plain_http              # the client spoke HTTP without TLS
    cdef bint asked_certificate       # `info` has been looked for
    cdef tg_buffer held               # what was encrypted and the kernel has not taken
    cdef ServerContext context        # what callbacks point to
    cdef Peer peer
    cdef uint64_t *words              # the listener's series, or NULL
    cdef uint64_t deadline            # of a client's handshake, CLOCK_MONOTONIC ns
    cdef CertificateInfo info         # of the client, or None
    cdef bytes certificate            # X-Forwarded-Client-Cert of the client, or None
    cdef str reason                   # what went wrong in the handshake

    # Belongs to the connected (or connecting) descriptor `fd` from now on.
    cdef void attach(self, int fd) noexcept
    # Goes on with the handshake: 0 done, TLS_AGAIN, TLS_ERROR.
    cdef int handshake(self) noexcept
    # >0 bytes, fewer than `size` only when nothing more is there now; 0 the peer's close_notify; TLS_AGAIN, TLS_ERROR.
    # The end of the socket without close_notify is an error: somebody may have cut something off.
    cdef Py_ssize_t receive(self, char *into, size_t size) noexcept
    # Bytes of the parts taken, or TLS_ERROR. When not all are, or `held` is not empty, the socket is full.
    cdef Py_ssize_t write(self, const iovec *parts, int count) noexcept
    # Sends close_notify, as far as the kernel takes it at once.
    cdef void close_notify(self) noexcept
    # Whether a record has begun to come and is not complete.
    cdef bint partial(self) noexcept
    # ALPN_… of tls_context.
    cdef int alpn(self) noexcept
    # The client's certificate as X-Forwarded-Client-Cert has it, or None. Looked for once.
    cdef bytes client_certificate(self)
    # What the client's verified certificate says; None: it has shown none. Looked for once.
    cdef CertificateInfo client_info(self)

    cdef int flush(self) noexcept
    cdef void fail(self) noexcept
    cdef void tell_again(self) noexcept


# None: no memory. `words` is the series of the listener.
cdef Tls new_server_tls(ServerContext context, uint64_t *words, uint64_t deadline)
cdef Tls new_client_tls(Peer peer)
# Whether a handshake may take a step in this turn of the loop (`now` is the poller's): they cost a thousand times what
# a request does, and a flood of them must leave time for those who are connected.
cdef bint handshake_turn(uint64_t now) noexcept
