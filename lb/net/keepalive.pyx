"""See keepalive.pxd."""

from libc.errno cimport errno
from libc.stdint cimport uint32_t

cdef extern from "<sys/socket.h>" nogil:
    enum:
        SOL_SOCKET
        SO_KEEPALIVE
    int setsockopt(int fd, int level, int option, const void *value, uint32_t size)

cdef extern from "<netinet/in.h>" nogil:
    enum:
        IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        TCP_KEEPIDLE
        TCP_KEEPINTVL
        TCP_KEEPCNT
        TCP_USER_TIMEOUT


cdef tg_keepalive keepalive_of(plan):
    cdef tg_keepalive made
    made.on = plan is not None
    made.idle_s = made.interval_s = made.probes = 0
    made.user_timeout_ms = 0
    if plan is not None:
        made.idle_s, made.interval_s, made.probes = plan.idle_s, plan.interval_s, plan.probes
        made.user_timeout_ms = plan.user_timeout_ms
    return made


cdef int keepalive_set(int fd, const tg_keepalive *wanted) noexcept nogil:
    cdef int on = wanted.on
    if setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)) < 0:
        return errno
    if setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &wanted.user_timeout_ms, sizeof(wanted.user_timeout_ms)) < 0:
        return errno
    if not on:
        return 0
    if setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &wanted.idle_s, sizeof(wanted.idle_s)) < 0:
        return errno
    if setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &wanted.interval_s, sizeof(wanted.interval_s)) < 0:
        return errno
    if setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &wanted.probes, sizeof(wanted.probes)) < 0:
        return errno
    return 0
