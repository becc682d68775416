"""Closed-loop UDP clients as fast as one core goes: each sends a datagram and waits for the same bytes back."""

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, ECONNREFUSED, EINTR, ENOBUFS, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset, strerror
from posix.unistd cimport close
from lb.net.link cimport link_append, link_init, link_remove, tg_link

cdef extern from "<time.h>" nogil:
    enum:
        CLOCK_MONOTONIC
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN
        EPOLL_CTL_ADD
        EPOLL_CLOEXEC
    ctypedef union epoll_data_t:
        void *ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
    ssize_t recv(int fd, void *data, size_t size, int flags)
    ssize_t send(int fd, const void *data, size_t size, int flags)

cdef enum:
    LARGEST = 65536                   # no datagram is longer
    EVENTS = 256
    TICK_MS = 100                     # how long a signal may wait
    # Log-linear like an HDR histogram: values below 256 ns have a bucket each, then 128 buckets per power of two, so a
    # value is known to 0.8 %. 64 bits need (64 - 8) * 128 more.
    LINEAR = 256
    HALF = 128
    BUCKETS = LINEAR + 56 * HALF


cdef inline int64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)            # cannot fail: the clock exists and the address is valid
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef struct Flow:
    tg_link link                      # in order of sending, all of them: the first is the next to time out
    int fd
    bint waiting
    bint refused                      # no server is there: the next datagram waits until this one's time is up
    uint64_t number                   # of the last datagram
    int64_t sent_at
    uint8_t *data                     # what was sent


cdef struct Load:
    int epoll
    size_t size
    int64_t timeout
    int64_t end
    tg_link order
    uint8_t *scratch
    uint64_t sent
    uint64_t answered
    uint64_t lost                     # no answer in time
    uint64_t late                     # an answer to a datagram that was already lost
    uint64_t corrupt                  # not what was sent
    uint64_t refused                  # ICMP port unreachable
    uint64_t unsent                   # the kernel would not take it
    int64_t greatest
    uint64_t total_ns
    uint64_t buckets[BUCKETS]


cdef inline unsigned int bucket_of(uint64_t value) noexcept nogil:
    cdef unsigned int shift = 0
    while value >> shift >= LINEAR:
        shift += 1
    return <unsigned int>(value >> shift) + shift * HALF


def bucket_value(index: int) -> int:
    """The greatest value, in ns, that a bucket of `drive`'s histogram counts."""
    if index < LINEAR:
        return index
    shift = index // HALF - 1
    return ((index - shift * HALF + 1) << shift) - 1


cdef int send_next(Load *load, Flow *flow, int64_t now) noexcept nogil:
    """0, or minus an errno."""
    flow.number += 1
    flow.waiting = True
    flow.refused = False
    flow.sent_at = now
    memcpy(flow.data, &flow.number, sizeof(uint64_t))
    link_remove(&flow.link)
    link_append(&load.order, &flow.link)
    while send(flow.fd, flow.data, load.size, MSG_DONTWAIT) < 0:
        if errno == ECONNREFUSED:                    # reported for an earlier datagram; this one is not sent yet
            load.refused += 1
        elif errno == EAGAIN or errno == ENOBUFS:
            load.unsent += 1
            flow.waiting = False
            return 0
        elif errno != EINTR:
            return -errno
    load.sent += 1
    return 0


cdef int take_answer(Load *load, Flow *flow, int64_t now) noexcept nogil:
    """One datagram, or the lack of one. 0, or minus an errno."""
    cdef uint64_t number
    cdef ssize_t n = recv(flow.fd, load.scratch, LARGEST, MSG_DONTWAIT)
    if n < 0:
        if errno == ECONNREFUSED:
            load.refused += 1
            flow.refused = True
            return 0
        return 0 if errno == EAGAIN or errno == EINTR else -errno
    if <size_t>n == load.size:
        if flow.waiting and memcmp(load.scratch, flow.data, load.size) == 0:
            load.answered += 1
            load.total_ns += <uint64_t>(now - flow.sent_at)
            load.greatest = max(load.greatest, now - flow.sent_at)
            load.buckets[bucket_of(<uint64_t>(now - flow.sent_at))] += 1
            return send_next(load, flow, now)
        memcpy(&number, load.scratch, sizeof(uint64_t))
        if number < flow.number and memcmp(load.scratch + 8, flow.data + 8, load.size - 8) == 0:
            load.late += 1
            return 0
    load.corrupt += 1
    return 0


cdef int drive_loop(Load *load) except -1 nogil:
    cdef epoll_event events[EVENTS]
    cdef Flow *flow
    cdef int64_t now = now_ns(), checked = now, wait
    cdef int count, i, failure = 0
    cdef tg_link *node = load.order.next
    cdef tg_link *last = load.order.previous
    while node != &load.order:                       # each is moved to the end, so it is met once
        flow = <Flow *>node.owner
        failure = send_next(load, flow, now)
        if failure or node == last:
            break
        node = load.order.next
    while not failure and now < load.end:
        flow = <Flow *>load.order.next.owner
        wait = min(flow.sent_at + load.timeout, load.end) - now
        count = epoll_wait(load.epoll, events, EVENTS, <int>min(max(wait, 0) // 1000000 + 1, TICK_MS))
        if count < 0 and errno != EINTR:
            failure = -errno
            break
        now = now_ns()
        for i in range(count):
            failure = take_answer(load, <Flow *>events[i].data.ptr, now)
            if failure:
                break
            now = now_ns()
        while not failure:
            flow = <Flow *>load.order.next.owner
            if now - flow.sent_at < load.timeout:
                break
            if flow.waiting and not flow.refused:
                load.lost += 1
            failure = send_next(load, flow, now)
        if now - checked > TICK_MS * <int64_t>1000000:
            checked = now
            with gil:
                PyErr_CheckSignals()
    if failure:
        with gil:
            raise OSError(-failure, strerror(-failure).decode())
    return 0


cdef dict filled(const Load *load):
    cdef size_t i
    found = {}
    for i in range(<size_t>BUCKETS):
        if load.buckets[i]:
            found[i] = load.buckets[i]
    return found


def drive(descriptors: Sequence[int], size_t size, double seconds, double timeout) -> dict[str, Any]:
    """Send datagrams of `size` bytes (16 to 65,507) on connected UDP sockets for some seconds, each socket its next one
    when the last is back unchanged or `timeout` is over.

    The first 8 bytes are the datagram's number in the machine's byte order, the next 8 the socket's. Returns counts:
    sent, answered, lost, late, corrupt, refused, unsent, total_ns and max_ns of the answered ones' round trips, and
    `buckets`, their histogram, by index (see `bucket_value`). Those in flight at the end are in no count but `sent`.
    Raises ValueError, OSError, MemoryError, what a signal handler raises.
    """
    cdef size_t count = len(descriptors), i
    cdef uint64_t number
    cdef Load *load = NULL
    cdef Flow *flows = NULL
    cdef epoll_event event
    if not count or size < 16 or size > 65507 or seconds <= 0 or timeout <= 0:
        raise ValueError("sockets, 16 to 65,507 bytes, seconds and a timeout are needed")
    try:
        load = <Load *>calloc(1, sizeof(Load))
        if load != NULL:
            load.epoll = -1
        flows = <Flow *>calloc(count, sizeof(Flow))
        if load == NULL or flows == NULL:
            raise MemoryError
        load.epoll = epoll_create1(EPOLL_CLOEXEC)
        if load.epoll < 0:
            raise OSError(errno, strerror(errno).decode())
        load.scratch = <uint8_t *>calloc(1, LARGEST)
        if load.scratch == NULL:
            raise MemoryError
        load.size = size
        load.timeout = <int64_t>(timeout * 1e9)
        link_init(&load.order)
        for i in range(count):
            flows[i].fd = descriptors[i]
            flows[i].link.owner = &flows[i]
            flows[i].data = <uint8_t *>calloc(1, size)
            if flows[i].data == NULL:
                raise MemoryError
            memset(flows[i].data, <int>(i % 251) + 1, size)
            number = i
            memcpy(flows[i].data + 8, &number, sizeof(uint64_t))
            link_append(&load.order, &flows[i].link)
            event.events = EPOLLIN
            event.data.ptr = &flows[i]
            if epoll_ctl(load.epoll, EPOLL_CTL_ADD, flows[i].fd, &event) < 0:
                raise OSError(errno, strerror(errno).decode())
        load.end = now_ns() + <int64_t>(seconds * 1e9)
        with nogil:
            drive_loop(load)
        return {"sent": load.sent, "answered": load.answered, "lost": load.lost, "late": load.late,
                "corrupt": load.corrupt, "refused": load.refused, "unsent": load.unsent, "total_ns": load.total_ns,
                "max_ns": load.greatest, "buckets": filled(load)}
    finally:
        if flows != NULL:
            for i in range(count):
                free(flows[i].data)
        free(flows)
        if load != NULL:
            free(load.scratch)
            if load.epoll >= 0:
                close(load.epoll)
        free(load)
