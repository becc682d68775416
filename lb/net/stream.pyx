"""Byte streams over sockets: see stream.pxd for the contract."""

from libc.errno cimport EAGAIN, EINPROGRESS, EINTR, ENOMEM, ETOOMANYREFS, errno
from libc.stdint cimport uint32_t
from libc.string cimport memset
from lb.net.address cimport AF_UNIX, Address
from lb.net.buffer cimport (
    tg_buffer_append, tg_buffer_clear, tg_buffer_consume, tg_buffer_free, tg_buffer_head, tg_buffer_size,
)
from lb.net.source cimport SourceAddress
from lb.net.tls.session cimport TLS_AGAIN, TLS_ERROR, new_client_tls
from lb.net.tls.context cimport ALPN_NONE

cdef extern from "<sys/socket.h>" nogil:
    ctypedef uint32_t socklen_t
    struct sockaddr:
        unsigned short sa_family
    struct linger:
        int l_onoff
        int l_linger
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    enum:
        SOCK_STREAM
        SOCK_NONBLOCK
        SOCK_CLOEXEC
        SOL_SOCKET
        SO_ERROR
        SO_LINGER
        SO_PROTOCOL
        SO_DOMAIN
        MSG_NOSIGNAL
        MSG_DONTWAIT
        MSG_PEEK
        SHUT_WR
    int socket(int domain, int kind, int protocol)
    int connect(int fd, const sockaddr *address, socklen_t length)
    ssize_t recv(int fd, void *data, size_t size, int flags)
    ssize_t send(int fd, const void *data, size_t size, int flags)
    ssize_t recvmsg(int fd, msghdr *message, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    int shutdown(int fd, int how)
    int getsockopt(int fd, int level, int option, void *value, socklen_t *size)
    int setsockopt(int fd, int level, int option, const void *value, socklen_t size)

cdef extern from *:
    """
    #include <string.h>
    #include <sys/socket.h>
    #include <unistd.h>

    /* As readv(2). A descriptor that comes with the bytes is put into `passed`; where that has one, it is closed. */
    static ssize_t tg_receive_descriptor(int fd, struct iovec *parts, int count, int *passed)
    {
        union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } control;
        struct msghdr message = {0};
        struct cmsghdr *head;
        ssize_t n;
        size_t i;
        int one;
        message.msg_iov = parts;
        message.msg_iovlen = (size_t)count;
        message.msg_control = &control;
        message.msg_controllen = sizeof(control);
        n = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n < 0)
            return n;
        for (head = CMSG_FIRSTHDR(&message); head != NULL; head = CMSG_NXTHDR(&message, head)) {
            if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
                continue;
            for (i = 0; CMSG_LEN((i + 1) * sizeof(int)) <= head->cmsg_len; i++) {
                memcpy(&one, CMSG_DATA(head) + i * sizeof(int), sizeof(int));
                if (*passed)
                    close(one);
                else
                    *passed = one;
            }
        }
        return n;
    }

    /* As sendmsg(2), with a descriptor. */
    static ssize_t tg_send_descriptor(int fd, const struct msghdr *message, int passing)
    {
        union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } control;
        struct msghdr with = *message;
        memset(&control, 0, sizeof(control));
        with.msg_control = &control;
        with.msg_controllen = CMSG_LEN(sizeof(int));
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.head), &passing, sizeof(int));
        return sendmsg(fd, &with, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    """
    ssize_t tg_receive_descriptor(int fd, iovec *parts, int count, int *passed) nogil
    ssize_t tg_send_descriptor(int fd, const msghdr *message, int passing) nogil

cdef extern from "<netinet/in.h>" nogil:
    enum:
        IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        TCP_NODELAY

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, int *value)

cdef extern from "<linux/sockios.h>" nogil:
    enum:
        SIOCOUTQ

cdef extern from "<unistd.h>" nogil:
    int close(int fd)


cdef enum:
    PARTS = 1000                      # handed to the kernel at once; it takes 1024 (IOV_MAX)
    KEEP = 4096                       # bytes of `out` that an idle connection may keep


cdef class Stream(Source):

    def __dealloc__(self):
        tg_buffer_free(&self.out)
        if self.passed:
            close(self.passed)
        if self.fd >= 0:
            close(self.fd)

    cdef Py_ssize_t receive(self, char *into, size_t size) noexcept:
        cdef iovec part
        cdef ssize_t n
        if self.tls is not None:
            n = self.tls.receive(into, size)
            if n == TLS_ERROR:
                self.tls_failed()
            return n
        if self.takes_descriptor:
            part.iov_base = into
            part.iov_len = size
            return self.receive_parts(&part, 1)
        while True:
            n = recv(self.fd, into, size, MSG_DONTWAIT)
            if n >= 0:
                return n
            if errno == EINTR:
                continue
            if errno == EAGAIN:
                return IO_AGAIN
            self.error = errno
            return IO_ERROR

    cdef Py_ssize_t receive_parts(self, iovec *parts, int count) noexcept:
        cdef msghdr message
        cdef ssize_t n
        memset(&message, 0, sizeof(message))
        message.msg_iov = parts
        message.msg_iovlen = <size_t>count
        while True:
            if self.takes_descriptor:
                n = tg_receive_descriptor(self.fd, parts, count, &self.passed)
            else:
                n = recvmsg(self.fd, &message, MSG_DONTWAIT)
            if n >= 0:
                return n
            if errno == EINTR:
                continue
            if errno == EAGAIN:
                return IO_AGAIN
            self.error = errno
            return IO_ERROR

    cdef int start_connect(self, Address address, bint lasting) noexcept:
        cdef int fd, one = 1, rc
        fd = socket(address.family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
        if fd < 0:
            self.error = errno
            return IO_ERROR
        if address.family != AF_UNIX:
            # Small frames must not wait for an acknowledgement. Failing here only costs latency.
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
            if lasting:
                address.keep_alive(fd)
            if isinstance(address, SourceAddress):
                rc = (<SourceAddress>address).bind(fd)
                if rc < 0:
                    self.error = -rc
                    close(fd)
                    return IO_ERROR
        while True:
            rc = connect(fd, <const sockaddr *>address.storage, address.length)
            if rc == 0 or errno != EINTR:
                break
        # EAGAIN: a Unix socket whose backlog is full; unlike EINPROGRESS nothing will complete it.
        if rc < 0 and errno != EINPROGRESS:
            self.error = errno
            close(fd)
            return IO_ERROR
        self.connecting = rc < 0
        self.shut = False
        self.error = 0
        tg_buffer_clear(&self.out)
        self.tls = None
        if address.tls is not None:
            try:
                self.tls = new_client_tls(address.tls)
            except MemoryError:
                pass
            if self.tls is None:
                self.error = ENOMEM
                close(fd)
                return IO_ERROR
            self.connecting = True        # until the handshake is over; the first event begins it
        return self.register(fd)

    cdef int register(self, int fd) noexcept:
        if self.tls is not None:
            self.tls.attach(fd)
        try:
            self.poller.add(self, fd, False)
        except OSError as failure:
            self.error = failure.errno
            close(fd)
            return IO_ERROR
        return 0

    cdef int finish_connect(self) noexcept:
        cdef int value = 0
        cdef socklen_t size = sizeof(value)
        if getsockopt(self.fd, SOL_SOCKET, SO_ERROR, &value, &size) < 0:
            value = errno
        if value:
            self.error = value
            return IO_ERROR
        if self.tls is not None:
            value = self.tls.handshake()
            if value == TLS_AGAIN:
                return IO_AGAIN
            if value == TLS_ERROR:
                self.tls_failed()
                return IO_ERROR
        self.connecting = False
        return 0

    cdef void tls_failed(self) noexcept:
        """Takes over the error; what an operator has to know of an endpoint is logged."""
        self.error = self.tls.error
        if self.tls.reason is not None:
            self.tls.peer.report(self.tls.reason, self.poller.now)

    cdef int queue(self, const void *data, size_t size) noexcept:
        return tg_buffer_append(&self.out, data, size)

    cdef int push(self) noexcept:
        cdef ssize_t n
        if self.tls is not None:
            return self.push_tls(NULL, 0)
        if self.passing:
            n = self.push_some(NULL, 0)
            if n:
                return <int>n
        while self.out.end > self.out.start:
            n = send(self.fd, tg_buffer_head(&self.out), tg_buffer_size(&self.out), MSG_NOSIGNAL | MSG_DONTWAIT)
            if n < 0:
                if errno == EINTR:
                    continue
                if errno == EAGAIN:
                    return 1
                self.error = errno
                return IO_ERROR
            tg_buffer_consume(&self.out, <size_t>n)
        # What a burst needed is not kept by an idle connection.
        if self.out.capacity > KEEP:
            tg_buffer_free(&self.out)
        return 0

    cdef int push_parts(self, const iovec *parts, int count) noexcept:
        while count > PARTS:
            if self.push_some(parts, PARTS) == IO_ERROR:
                return IO_ERROR
            parts += PARTS
            count -= PARTS
        return self.push_some(parts, count)

    cdef int push_some(self, const iovec *parts, int count) noexcept:
        cdef iovec vector[PARTS + 1]
        cdef msghdr message
        cdef int used = 0, first = 0, i
        cdef ssize_t n
        cdef size_t left
        if self.tls is not None:
            return self.push_tls(parts, count)
        if count == 1 and tg_buffer_size(&self.out) == 0 and not self.passing:
            return self.push_one(<const char *>parts[0].iov_base, parts[0].iov_len)
        memset(&message, 0, sizeof(message))
        if tg_buffer_size(&self.out):
            vector[0].iov_base = tg_buffer_head(&self.out)
            vector[0].iov_len = tg_buffer_size(&self.out)
            used = 1
        for i in range(count):
            if parts[i].iov_len:
                vector[used] = parts[i]
                used += 1
        while first < used:
            message.msg_iov = &vector[first]
            message.msg_iovlen = <size_t>(used - first)
            if self.passing:
                n = tg_send_descriptor(self.fd, &message, self.passing)
                if n > 0 or (n < 0 and errno == ETOOMANYREFS):     # too many are under way: it goes without
                    self.passing = 0
            else:
                n = sendmsg(self.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT)
            if n < 0 and errno == ETOOMANYREFS:
                continue
            if n < 0:
                if errno == EINTR:
                    continue
                if errno != EAGAIN:
                    self.error = errno
                    return IO_ERROR
                n = 0
                i = -1
            else:
                i = 0
            left = <size_t>n
            while first < used and left >= vector[first].iov_len:
                left -= vector[first].iov_len
                first += 1
            if first < used:
                vector[first].iov_base = <char *>vector[first].iov_base + left
                vector[first].iov_len -= left
            if i < 0:
                break
        return self.keep_rest(vector, first, used)

    cdef int push_one(self, const char *data, size_t size) noexcept:
        """One part with nothing before it: send(2) costs less than sendmsg(2)."""
        cdef ssize_t n
        while size:
            n = send(self.fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT)
            if n < 0:
                if errno == EINTR:
                    continue
                if errno != EAGAIN:
                    self.error = errno
                    return IO_ERROR
                if tg_buffer_append(&self.out, data, size) < 0:
                    self.error = ENOMEM
                    return IO_ERROR
                return 1
            data += n
            size -= <size_t>n
        return 0

    cdef int push_tls(self, const iovec *parts, int count) noexcept:
        """`out`, then the parts, through TLS; `count` is at most PARTS."""
        cdef iovec vector[PARTS + 1]
        cdef int used = 0, first = 0, i
        cdef Py_ssize_t taken
        cdef size_t left
        if tg_buffer_size(&self.out):
            vector[0].iov_base = tg_buffer_head(&self.out)
            vector[0].iov_len = tg_buffer_size(&self.out)
            used = 1
        for i in range(count):
            if parts[i].iov_len:
                vector[used] = parts[i]
                used += 1
        taken = self.tls.write(vector, used)
        if taken == TLS_ERROR:
            self.error = self.tls.error
            return IO_ERROR
        left = <size_t>taken
        while first < used and left >= vector[first].iov_len:
            left -= vector[first].iov_len
            first += 1
        if first < used:
            vector[first].iov_base = <char *>vector[first].iov_base + left
            vector[first].iov_len -= left
        i = self.keep_rest(vector, first, used)
        if i:
            return i
        if self.out.capacity > KEEP:
            tg_buffer_free(&self.out)
        if tg_buffer_size(&self.tls.held):
            return 1
        if self.shut:
            shutdown(self.fd, SHUT_WR)        # which had to wait; saying it twice does no harm
        return 0

    cdef int keep_rest(self, const iovec *vector, int first, int used) noexcept:
        """What the kernel did not take: the tail of `out` stays, the parts are copied behind it."""
        cdef int i = first
        cdef char *base
        if first >= used:
            tg_buffer_clear(&self.out)
            return 0
        if tg_buffer_size(&self.out):
            base = <char *>vector[first].iov_base
            if base >= self.out.data and base < self.out.data + self.out.capacity:
                self.out.start = <size_t>(base - self.out.data)
                i = first + 1
            else:
                tg_buffer_clear(&self.out)
        while i < used:
            if tg_buffer_append(&self.out, vector[i].iov_base, vector[i].iov_len) < 0:
                self.error = ENOMEM
                return IO_ERROR
            i += 1
        return 1

    cdef void shutdown_write(self) noexcept:
        if self.fd >= 0 and not self.shut:
            self.shut = True
            if self.tls is not None:
                self.tls.close_notify()
                if tg_buffer_size(&self.tls.held):
                    return                    # `push` goes on
            shutdown(self.fd, SHUT_WR)   # ENOTCONN: the peer is gone, and reading will tell

    cdef void reset_on_close(self) noexcept:
        cdef linger how
        how.l_onoff = 1
        how.l_linger = 0
        self.cut_short()
        if self.fd >= 0:
            setsockopt(self.fd, SOL_SOCKET, SO_LINGER, &how, sizeof(how))   # a Unix socket has no reset

    cdef void cut_short(self) noexcept:
        if self.tls is not None:
            self.tls.closed = True

    cdef void on_close(self) noexcept:
        if self.tls is not None:
            self.tls.close_notify()           # RFC 8446 section 6.1
            self.tls.failed = True            # whoever still comes must not reach another's descriptor

    cdef size_t pending(self) noexcept:
        if self.tls is not None:
            return tg_buffer_size(&self.out) + tg_buffer_size(&self.tls.held)
        return tg_buffer_size(&self.out)

    cdef size_t unacknowledged(self) noexcept:
        cdef int size = 0, protocol = 0
        cdef socklen_t n = sizeof(protocol)
        if getsockopt(self.fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &n) < 0 or protocol != IPPROTO_TCP:
            return 0
        return <size_t>size if ioctl(self.fd, SIOCOUTQ, &size) == 0 else 0

    cdef bint is_unix(self) noexcept:
        cdef int family = 0
        cdef socklen_t n = sizeof(family)
        return (self.tls is None and getsockopt(self.fd, SOL_SOCKET, SO_DOMAIN, &family, &n) == 0
                and family == AF_UNIX)

    cdef bint silent(self) noexcept:
        cdef char byte
        return recv(self.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 and errno == EAGAIN

    cdef int alpn(self) noexcept:
        return ALPN_NONE if self.tls is None else self.tls.alpn()
