"""A UDP server that sends each datagram back, in batches, as fast as one core goes."""

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, ECONNREFUSED, EINTR, ENOBUFS, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset, strerror

cdef extern from "<time.h>" nogil:
    struct timespec:
        pass

cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN
        POLLOUT
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
    struct iovec:
        void *iov_base
        size_t iov_len
    struct sockaddr_storage:
        pass
    struct msghdr:
        void *msg_name
        uint32_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    int recvmmsg(int fd, mmsghdr *messages, unsigned int count, int flags, timespec *timeout)
    int sendmmsg(int fd, mmsghdr *messages, unsigned int count, int flags)

cdef enum:
    BATCH = 64
    LARGEST = 65536                   # no datagram is longer
    TICK_MS = 100                     # how long a signal or a halt may wait


cdef class Halt:
    """Read by a loop that runs without the GIL; another thread sets it to end the loop within a tick."""

    cdef volatile int raised

    def set(self) -> None:
        self.raised = 1


cdef struct Ring:
    mmsghdr messages[BATCH]
    iovec parts[BATCH]
    sockaddr_storage senders[BATCH]
    uint8_t data[BATCH][LARGEST]


cdef struct Echoed:
    uint64_t received
    uint64_t bytes
    uint64_t sent
    uint64_t dropped                  # on purpose
    uint64_t unsent                   # the kernel would not take them


cdef void empty_slot(Ring *ring, unsigned int i) noexcept nogil:
    ring.parts[i].iov_base = &ring.data[i][0]
    ring.parts[i].iov_len = LARGEST
    ring.messages[i].msg_hdr.msg_name = &ring.senders[i]
    ring.messages[i].msg_hdr.msg_namelen = sizeof(sockaddr_storage)
    ring.messages[i].msg_hdr.msg_iov = &ring.parts[i]
    ring.messages[i].msg_hdr.msg_iovlen = 1


cdef int send_back(int fd, Ring *ring, unsigned int count, Echoed *echoed) noexcept nogil:
    """0, or minus the errno of a failure that is not one datagram's."""
    cdef unsigned int at = 0
    cdef int n
    cdef pollfd waiting
    while at < count:
        n = sendmmsg(fd, &ring.messages[at], count - at, MSG_DONTWAIT)
        if n > 0:
            at += <unsigned int>n
            echoed.sent += <unsigned int>n
        elif errno == EINTR:
            continue
        elif errno == EAGAIN:
            waiting.fd = fd
            waiting.events = POLLOUT
            if poll(&waiting, 1, TICK_MS) == 0:
                echoed.unsent += count - at
                return 0
        elif errno == ECONNREFUSED or errno == ENOBUFS:
            at += 1
            echoed.unsent += 1
        else:
            return -errno
    return 0


cdef int echo_batch(int fd, Ring *ring, unsigned int drop_every, Echoed *echoed) noexcept nogil:
    """Sends back what is there, a batch at most. The number of datagrams, or minus an errno. The slots are empty."""
    cdef unsigned int i, count, keep = 0
    cdef int failure
    cdef int n = recvmmsg(fd, ring.messages, BATCH, MSG_DONTWAIT, NULL)
    if n < 0:
        return 0 if errno == EAGAIN or errno == EINTR or errno == ECONNREFUSED else -errno
    count = <unsigned int>n
    for i in range(count):
        echoed.received += 1
        echoed.bytes += ring.messages[i].msg_len
        if drop_every and echoed.received % drop_every == 0:
            echoed.dropped += 1
            continue
        ring.parts[i].iov_len = ring.messages[i].msg_len
        ring.messages[keep] = ring.messages[i]      # its address and data are those of slot i
        keep += 1
    failure = send_back(fd, ring, keep, echoed)
    for i in range(count):
        empty_slot(ring, i)
    return failure if failure else n


cdef int echo_loop(int fd, Halt halt, Ring *ring, unsigned int drop_every, Echoed *echoed) except -1 nogil:
    cdef pollfd waiting
    cdef int n
    cdef unsigned int rounds = 0
    waiting.fd = fd
    waiting.events = POLLIN
    while not halt.raised:
        n = poll(&waiting, 1, TICK_MS)
        rounds += 1
        if n <= 0 or rounds & 4095 == 0:
            with gil:
                if n < 0 and errno != EINTR:
                    raise OSError(errno, strerror(errno).decode())
                PyErr_CheckSignals()
        n = echo_batch(fd, ring, drop_every, echoed) if n > 0 else 0
        if n < 0:
            with gil:
                raise OSError(-n, strerror(-n).decode())
    return 0


def echo(int descriptor, Halt halt, unsigned int drop_every=0) -> dict[str, int]:
    """Send back each datagram of a bound, unconnected UDP socket until `halt`; not every `drop_every`th (0: all).

    Returns counts: received, bytes, sent, dropped, unsent. Raises ValueError for a negative descriptor (poll ignores
    those), OSError, MemoryError, what a signal handler raises.
    """
    cdef Echoed echoed
    cdef unsigned int i
    if descriptor < 0:
        raise ValueError("a socket is needed")
    cdef Ring *ring = <Ring *>calloc(1, sizeof(Ring))
    if ring == NULL:
        raise MemoryError
    for i in range(<unsigned int>BATCH):
        empty_slot(ring, i)
    memset(&echoed, 0, sizeof(Echoed))
    try:
        with nogil:
            echo_loop(descriptor, halt, ring, drop_every, &echoed)
    finally:
        free(ring)
    return {"received": echoed.received, "bytes": echoed.bytes, "sent": echoed.sent, "dropped": echoed.dropped,
            "unsent": echoed.unsent}
