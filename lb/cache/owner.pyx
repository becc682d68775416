"""Locks that name their owner and can be taken from a dead one.

A token is the process's number in the upper half and the low 32 bits of its start time (proc(5), field 22 of stat) in
the lower. The start time is there because the kernel hands out numbers again: without it a lock whose owner died
could wait for a stranger. A zombie counts as dead: its main thread, the one that may hold a lock, runs no more
instructions.
"""

from libc.errno cimport ESRCH, errno
from libc.stdint cimport uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport strtoull
from libc.string cimport strrchr
from posix.fcntl cimport O_CLOEXEC, O_RDONLY, open as c_open
from posix.signal cimport kill
from posix.unistd cimport close, getpid, read


cdef int process_stat(int pid, char *state, uint64_t *start) noexcept nogil:
    """Read a process's state letter and start time; -1 when /proc does not tell."""
    cdef char path[32]
    cdef char text[1024]
    cdef char *at
    cdef char *end
    cdef ssize_t n
    cdef int _
    snprintf(path, sizeof(path), "/proc/%d/stat", pid)
    cdef int fd = c_open(path, O_RDONLY | O_CLOEXEC)
    if fd < 0:
        return -1
    n = read(fd, text, sizeof(text) - 1)
    close(fd)
    if n <= 0:
        return -1
    text[n] = 0
    # The name in field 2 may hold spaces and parentheses; nothing after it does.
    at = strrchr(text, c")")
    if at is NULL or at[1] != c" " or at[2] == 0:
        return -1
    state[0] = at[2]
    at += 3
    for _ in range(4, 22):
        at += 1
        while at[0] != c" ":
            if at[0] == 0:
                return -1
            at += 1
    start[0] = strtoull(at, &end, 10)
    return 0 if end != at else -1


cdef uint64_t owner_token() noexcept nogil:
    cdef char state = 0
    cdef uint64_t start = 0
    cdef int pid = getpid()
    if process_stat(pid, &state, &start):
        return 0
    return (<uint64_t> pid << 32) | (start & 0xffffffffu)


cdef int owner_pid(uint64_t token) noexcept nogil:
    return <int> (token >> 32)


cdef bint owner_is_dead(uint64_t token) noexcept nogil:
    cdef char state = 0
    cdef uint64_t start = 0
    cdef int pid = owner_pid(token)
    if pid <= 0:
        return True  # no process writes such a token
    if kill(pid, 0) and errno == ESRCH:
        return True
    if process_stat(pid, &state, &start):
        return False  # gone meanwhile, or hidden from us: ask again later
    return state == c"Z" or state == c"X" or (start & 0xffffffffu) != (token & 0xffffffffu)
