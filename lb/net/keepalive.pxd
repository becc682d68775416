"""TCP keepalive and user timeout (tcp(7)): how the kernel notices that a connection's other side has vanished."""


cdef struct tg_keepalive:
    bint on
    int idle_s                        # silence before the first probe
    int interval_s                    # between two
    int probes                        # without an answer, then the connection is over
    unsigned int user_timeout_ms      # data or a probe without an answer for so long ends it; 0 = as the kernel has it


# Of a lb.config.plan.plan.KeepalivePlan; None is off.
cdef tg_keepalive keepalive_of(plan)
# Sets a TCP socket up; those accepted from a listening one have what it has. 0, or errno of what the kernel refused.
cdef int keepalive_set(int fd, const tg_keepalive *wanted) noexcept nogil
