"""TLS between a stream and its socket: see session.pxd for the contract."""

import re

from libc.errno cimport EAGAIN, ECONNRESET, EINTR, ENOMEM, EPROTO, errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcmp, memcpy
from lb.net.buffer cimport (
    tg_buffer_append, tg_buffer_consume, tg_buffer_free, tg_buffer_head, tg_buffer_size,
)
from lb.net.tls.certificate cimport CertificateInfo, info_of
from lb.net.tls.openssl cimport (
    BIO, BIO_CTRL_EOF, BIO_CTRL_FLUSH, BIO_METHOD, BIO_TYPE_SOURCE_SINK, SSL_ERROR_WANT_READ,
    SSL_ERROR_ZERO_RETURN, SSL_R_HTTP_REQUEST, X509, X509_V_OK, BIO_clear_retry_flags, BIO_get_data,
    BIO_get_new_index, BIO_meth_new, BIO_meth_set_ctrl, BIO_meth_set_read_ex, BIO_meth_set_write_ex, BIO_new,
    BIO_set_data, BIO_set_init, BIO_set_retry_read, ERR_clear_error, ERR_GET_REASON, ERR_peek_error, SSL_do_handshake,
    SSL_free, SSL_get0_alpn_selected, SSL_get0_peer_certificate, SSL_get_error, SSL_get_verify_result,
    SSL_has_pending, SSL_read_ex, SSL_session_reused, SSL_set_bio, SSL_shutdown, SSL_write_ex,
    X509_verify_cert_error_string,
)
from lb.net.tls.pem cimport openssl_error
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport (
    LISTENER_TLS_HANDSHAKES_FAILED, LISTENER_TLS_HANDSHAKES_FULL, LISTENER_TLS_HANDSHAKES_RESUMED,
)
from lb.net.tls.context cimport ALPN_H2, ALPN_HTTP1, ALPN_NONE, ALPN_OTHER, ServerContext
from lb.net.tls.peer cimport Peer

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_NOSIGNAL
        MSG_DONTWAIT
        MSG_PEEK
        SHUT_RD
    ssize_t recv(int fd, void *data, size_t size, int flags)
    ssize_t send(int fd, const void *data, size_t size, int flags)
    int shutdown(int fd, int how)

PLAIN = re.compile(r"[!#-\[\]-~]+")    # visible ASCII without quotes and backslashes
SPECIAL = re.compile("[,;=]")

cdef enum:
    RECORD = 16384                    # plaintext in one record at most (RFC 8446 section 5.1)
    BURST = 65536                     # ciphertext gathered before it is offered to the socket
    WIRE = 131072                     # room for it: a burst, and what one more call of OpenSSL may add
    HANDSHAKES = 8                    # steps of handshakes in one turn of the loop
    # Records in one call, of which a full buffer needs a quarter: a peer may make them as small as it likes.
    RECORDS = 64
    SILENT = 4                        # recvs in a row that bring nothing but what OpenSSL keeps to itself (key updates)
    REPLIES = 4096                    # bytes that OpenSSL may have to say while it reads

# One of each for the process: nothing is left in them between two calls from outside.
cdef char *wire = <char *>malloc(WIRE)
cdef char *record = <char *>malloc(RECORD)
cdef size_t wired = 0                 # bytes in `wire`
cdef int silent = 0                   # recvs since a record of the caller's was read
cdef uint64_t turn_now = 0
cdef int turn_left = 0


# The BIO.

cdef int bio_read(BIO *bio, char *into, size_t size, size_t *got) noexcept:
    global silent
    cdef Tls tls = <Tls>BIO_get_data(bio)
    cdef ssize_t n
    got[0] = 0
    BIO_clear_retry_flags(bio)
    if tls.error:
        return 0
    if tls.dry:
        BIO_set_retry_read(bio)
        return 0
    if tls.reading:
        silent += 1
        if silent > SILENT:
            BIO_set_retry_read(bio)       # and is not dry: the caller comes again
            return 0
    while True:
        n = recv(tls.fd, into, size, MSG_DONTWAIT)
        if n > 0:
            got[0] = <size_t>n
            tls.dry = <size_t>n < size
            return 1
        if n == 0:
            tls.eof = True
            return 0
        if errno == EINTR:
            continue
        if errno == EAGAIN:
            tls.dry = True
            BIO_set_retry_read(bio)
        else:
            tls.error = errno
        return 0


cdef int bio_write(BIO *bio, const char *data, size_t size, size_t *taken) noexcept:
    global wired
    cdef Tls tls = <Tls>BIO_get_data(bio)
    BIO_clear_retry_flags(bio)
    taken[0] = 0
    if tls.reading and wired + size > REPLIES:
        # Each attempt to renegotiate is answered; whoever makes thousands of them is cut off.
        tls.error = EPROTO
        return 0
    if size > WIRE - wired:               # a chain of certificates beyond any measure: it waits in the heap
        if tg_buffer_append(&tls.held, wire, wired) < 0 or tg_buffer_append(&tls.held, data, size) < 0:
            tls.error = ENOMEM
            return 0
        wired = 0
    else:
        memcpy(wire + wired, data, size)
        wired += size
    taken[0] = size
    return 1


cdef long bio_ctrl(BIO *bio, int command, long number, void *data) noexcept:
    if command == BIO_CTRL_FLUSH:
        return 1
    if command == BIO_CTRL_EOF:
        return (<Tls>BIO_get_data(bio)).eof
    return 0


cdef BIO_METHOD *make_method() except NULL:
    cdef BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, b"tidegate socket")
    if method == NULL or wire == NULL or record == NULL:
        raise MemoryError
    if not (BIO_meth_set_read_ex(method, bio_read) and BIO_meth_set_write_ex(method, bio_write)
            and BIO_meth_set_ctrl(method, bio_ctrl)):
        raise MemoryError
    return method


cdef BIO_METHOD *METHOD = make_method()


cdef bint handshake_turn(uint64_t now) noexcept:
    global turn_now, turn_left
    if now != turn_now:
        turn_now = now
        turn_left = HANDSHAKES
    if turn_left == 0:
        return False
    turn_left -= 1
    return True


cdef bint at_end(Tls tls) noexcept:
    """Whether the socket's end is next. It may have come with bytes that were too few for a record: the poller has told
    of both at once then, and does not again."""
    cdef char byte
    if recv(tls.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0:
        tls.eof = True
    return tls.eof


cdef Tls new_server_tls(ServerContext context, uint64_t *words, uint64_t deadline):
    cdef Tls tls = Tls.__new__(Tls)
    tls.context = context
    tls.words = words
    tls.deadline = deadline
    tls.ssl = context.new_ssl()
    return tls if tls.ssl != NULL else None


cdef Tls new_client_tls(Peer peer):
    cdef Tls tls = Tls.__new__(Tls)
    tls.peer = peer
    tls.ssl = peer.new_ssl()
    return tls if tls.ssl != NULL else None


cdef class Tls:

    def __cinit__(self):
        self.fd = -1
        self.handshaking = True

    def __dealloc__(self):
        SSL_free(self.ssl)                # which takes NULL, and frees the BIO
        tg_buffer_free(&self.held)

    cdef void attach(self, int fd) noexcept:
        cdef BIO *bio = BIO_new(METHOD)
        if bio == NULL:
            self.failed = True
            self.error = ENOMEM
            return
        BIO_set_data(bio, <void *>self)
        BIO_set_init(bio, 1)
        SSL_set_bio(self.ssl, bio, bio)   # one reference covers both directions
        self.fd = fd

    cdef int flush(self) noexcept:
        """Sends what is held and what was gathered: 0 all gone, 1 the socket is full, TLS_ERROR."""
        global wired
        cdef const char *data = wire
        cdef size_t left = wired
        cdef ssize_t n
        wired = 0
        if tg_buffer_size(&self.held):
            if tg_buffer_append(&self.held, data, left) < 0:
                self.error = ENOMEM
                return TLS_ERROR
            data = tg_buffer_head(&self.held)
            left = tg_buffer_size(&self.held)
        while left:
            n = send(self.fd, data, left, MSG_NOSIGNAL | MSG_DONTWAIT)
            if n < 0:
                if errno == EINTR:
                    continue
                if errno != EAGAIN:
                    self.error = errno
                    return TLS_ERROR
                break
            data += n
            left -= <size_t>n
        if tg_buffer_size(&self.held):
            tg_buffer_consume(&self.held, tg_buffer_size(&self.held) - left)
            if left == 0:
                tg_buffer_free(&self.held)
        elif left and tg_buffer_append(&self.held, data, left) < 0:
            self.error = ENOMEM
            return TLS_ERROR
        return 1 if left else 0

    cdef void fail(self) noexcept:
        """The connection is of no use any more: note why, for the peer's operator where it is an endpoint."""
        cdef unsigned long code = ERR_peek_error()
        cdef long verified
        self.failed = True
        self.plain_http = ERR_GET_REASON(code) == SSL_R_HTTP_REQUEST and self.peer is None
        if self.error == 0:
            self.error = ECONNRESET if self.eof else EPROTO
        if self.peer is not None:
            verified = SSL_get_verify_result(self.ssl) if self.peer.context.verify else X509_V_OK
            if self.handshaking and verified != X509_V_OK:
                text = (<bytes>X509_verify_cert_error_string(verified)).decode("ascii", "replace")
                self.reason = f"the certificate is not accepted for {self.peer.name}: {text}"
            elif self.handshaking:
                self.reason = f"the handshake failed: {openssl_error('the connection was closed')}"
            elif code and not self.eof:   # with TLS 1.3 a refusal of our certificate comes behind the handshake
                self.reason = openssl_error("the connection broke")
        ERR_clear_error()

    cdef int handshake(self) noexcept:
        cdef int rc, sent
        cdef bint resumed
        if self.failed:
            return TLS_ERROR
        self.dry = False
        ERR_clear_error()
        rc = SSL_do_handshake(self.ssl)
        sent = self.flush()               # also the alert of one that failed
        if rc != 1 and sent != TLS_ERROR and SSL_get_error(self.ssl, rc) == SSL_ERROR_WANT_READ and not at_end(self):
            return TLS_AGAIN
        if rc != 1 or sent == TLS_ERROR:
            self.fail()
            # What is left unread would make the close a reset, which may overtake the alert that says why.
            recv(self.fd, wire, WIRE, MSG_DONTWAIT)
            if self.words != NULL:
                tg_add(&self.words[LISTENER_TLS_HANDSHAKES_FAILED], 1)
            return TLS_ERROR
        self.handshaking = False
        if self.words != NULL:
            resumed = SSL_session_reused(self.ssl)
            tg_add(&self.words[LISTENER_TLS_HANDSHAKES_RESUMED if resumed else LISTENER_TLS_HANDSHAKES_FULL], 1)
        return 0

    cdef Py_ssize_t receive(self, char *into, size_t size) noexcept:
        global silent
        cdef size_t total = 0, n
        cdef int rc, why, records = 0
        if self.failed:
            return TLS_ERROR
        if self.handshaking:
            rc = self.handshake()
            if rc:
                return rc
        elif self.ended:
            return 0
        else:
            self.dry = False
        ERR_clear_error()
        self.reading = True
        while True:
            n = 0
            silent = 0
            rc = SSL_read_ex(self.ssl, into + total, size - total, &n)
            total += n
            records += 1
            if rc != 1 or total == size:
                break
            if records == RECORDS:
                self.dry = False              # there may be more, in OpenSSL's buffer if not in the socket
                break
        self.reading = False
        why = SSL_get_error(self.ssl, rc)
        # A key update may have to be answered, a broken record too. A socket that breaks here shows at the next send.
        if wired:
            self.flush()
        if rc == 1:
            return <Py_ssize_t>total
        if why == SSL_ERROR_WANT_READ and (total or not at_end(self)):
            return <Py_ssize_t>total if total else TLS_AGAIN
        if why == SSL_ERROR_ZERO_RETURN:
            self.ended = True
        else:
            self.fail()
        if total == 0:
            return 0 if self.ended else TLS_ERROR
        self.tell_again()
        return <Py_ssize_t>total

    cdef void tell_again(self) noexcept:
        """The end came behind data of the same read. Nothing comes from the peer after it, so we close our ear, and the
        poller tells of the end of this direction as it tells of a FIN."""
        shutdown(self.fd, SHUT_RD)        # ENOTCONN: the peer is gone, which the poller tells, too

    cdef Py_ssize_t write(self, const iovec *parts, int count) noexcept:
        cdef Py_ssize_t total = 0
        cdef size_t offset = 0, n, room
        cdef const char *data
        cdef int i = 0, rc
        if self.failed:
            return TLS_ERROR
        rc = self.flush()
        if rc:
            return 0 if rc == 1 else TLS_ERROR
        if self.handshaking:
            return 0
        ERR_clear_error()
        while True:
            while i < count and offset == parts[i].iov_len:
                i += 1
                offset = 0
            if i == count:
                break
            data = <const char *>parts[i].iov_base + offset
            n = min(parts[i].iov_len - offset, <size_t>RECORD)
            if n < RECORD and i + 1 < count:
                # A record for each small part would cost more than putting them together does.
                memcpy(record, data, n)
                data = record
                offset += n
                while n < RECORD and i < count:
                    if offset == parts[i].iov_len:
                        i += 1
                        offset = 0
                        continue
                    room = min(parts[i].iov_len - offset, <size_t>RECORD - n)
                    memcpy(record + n, <const char *>parts[i].iov_base + offset, room)
                    n += room
                    offset += room
            else:
                offset += n
            if SSL_write_ex(self.ssl, data, n, &room) != 1:
                self.fail()
                self.flush()
                return TLS_ERROR
            total += <Py_ssize_t>n
            if wired >= BURST:
                rc = self.flush()
                if rc == TLS_ERROR:
                    return TLS_ERROR
                if rc:
                    return total
        if self.flush() == TLS_ERROR:
            return TLS_ERROR
        return total

    cdef void close_notify(self) noexcept:
        if self.closed or self.failed or self.handshaking or self.fd < 0:
            return
        self.closed = True
        ERR_clear_error()
        if SSL_shutdown(self.ssl) < 0:
            ERR_clear_error()
        self.flush()                      # the peer may be gone: nobody is left to tell

    cdef bint partial(self) noexcept:
        return not self.failed and SSL_has_pending(self.ssl) != 0

    cdef int alpn(self) noexcept:
        cdef const unsigned char *name = NULL
        cdef unsigned int size = 0
        SSL_get0_alpn_selected(self.ssl, &name, &size)
        if size == 0:
            return ALPN_NONE
        if size == 2 and memcmp(name, b"h2", 2) == 0:
            return ALPN_H2
        if size == 8 and memcmp(name, b"http/1.1", 8) == 0:
            return ALPN_HTTP1
        return ALPN_OTHER

    cdef bytes client_certificate(self):
        if self.certificate is None and self.client_info() is not None:
            self.certificate = forwarded_certificate(self.info)
        return self.certificate

    cdef CertificateInfo client_info(self):
        cdef X509 *certificate
        if not self.asked_certificate and not self.handshaking:
            self.asked_certificate = True
            certificate = SSL_get0_peer_certificate(self.ssl)
            if certificate != NULL and SSL_get_verify_result(self.ssl) == X509_V_OK:
                self.info = info_of(certificate)
        return self.info


cdef bytes forwarded_certificate(CertificateInfo info):
    """The element of X-Forwarded-Client-Cert that Envoy writes: Hash, Subject, URI, DNS.

    The subject comes from OpenSSL with its quotes and controls escaped; another name in which something could hide is
    left out.
    """
    parts = ["Hash=" + info.fingerprint, 'Subject="' + info.subject + '"']
    for kind, names in (("URI=", info.uris), ("DNS=", info.dns)):
        for name in names:
            if PLAIN.fullmatch(name):
                parts.append(kind + (f'"{name}"' if SPECIAL.search(name) else name))
    return ";".join(parts).encode("ascii", "replace")
