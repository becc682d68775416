"""Connections that could not be begun: see connect_failure.pxd."""

import logging

from libc.errno cimport EADDRINUSE, EADDRNOTAVAIL, EMFILE
from libc.stdint cimport uint64_t
from libc.string cimport strerror
from lb.failure cimport FAIL_NO_SOCKET, connect_failure

log = logging.getLogger("tidegate.proxy")

NO_SOCKET = "this host has no source port, descriptor or memory left for a connection to the endpoint"

cdef uint64_t QUIET_NS = 60_000_000_000
cdef uint64_t quiet_until = 0


cdef int failed_connect(str address, int error, uint64_t now) noexcept:
    global quiet_until
    cdef int kind = connect_failure(error)
    if kind == FAIL_NO_SOCKET and now >= quiet_until:
        quiet_until = now + QUIET_NS
        reason = strerror(error).decode()
        if error == EADDRNOTAVAIL or error == EADDRINUSE:
            reason += ("; no source port towards it is left (`source` of the pool, net.ipv4.ip_local_port_range), or "
                       "the source address is gone")
        elif error == EMFILE:
            reason += " (LimitNOFILE, ulimit -n)"
        log.warning("%s: this host cannot begin a connection: %s", address, reason)
    return kind
