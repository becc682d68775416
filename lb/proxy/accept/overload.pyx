"""The limits of a worker as a whole: see overload.pxd.

Memory is what the kernel says is resident, read on a tick of its own and never per request: a worker fills some hundred
megabytes in that time at most, so leave that much room below what the machine would kill for. Once over the limit,
requests are refused until a twentieth of it is free again, so that a worker at the edge does not flap.
"""

import logging
import os

from libc.stdint cimport uint64_t

cdef extern from "<malloc.h>" nogil:
    int malloc_trim(size_t pad)

log = logging.getLogger("tidegate.proxy")

TICK = 0.1                            # seconds between two looks at the memory
PAGE = os.sysconf("SC_PAGE_SIZE")


cdef class Overload:
    """No limits until `limit`. `loop` runs the tick, which is there only while there is a limit of memory."""

    def __init__(self, loop):
        self.loop = loop

    cdef bint refuses(self, Py_ssize_t in_flight) noexcept:
        if self.full or (self.max_in_flight and in_flight > self.max_in_flight):
            self.refused += 1
            return True
        return False

    def limit(self, Py_ssize_t max_in_flight, uint64_t max_memory):
        """Take other limits into use; 0 = none. Raises OSError when the memory cannot be read."""
        if max_memory and self.statm is None:
            self.statm = open("/proc/self/statm", "rb", buffering=0)
        self.max_in_flight = max_in_flight
        self.max_memory = max_memory
        if self.handle is not None:
            self.handle.cancel()
            self.handle = None
        self.full = False
        if max_memory:
            self.look()

    def look(self):
        memory = self.resident()
        if memory >= self.max_memory and not self.full:
            # What was freed may still be kept by malloc: give it back before anybody is refused.
            malloc_trim(0)
            memory = self.resident()
        self.see(memory)
        self.handle = self.loop.call_later(TICK, self.look)

    def see(self, uint64_t memory):
        """Decide by this many resident bytes."""
        self.memory = memory
        if self.full:
            if memory < self.max_memory - self.max_memory // 20:
                self.full = False
                log.warning("memory: %d bytes: new requests are taken again", memory)
        elif self.max_memory and memory >= self.max_memory:
            self.full = True
            log.warning("memory: %d bytes, the limit is %d: new requests are refused", memory, self.max_memory)

    def resident(self):
        """Resident bytes of this process."""
        self.statm.seek(0)
        return int(self.statm.read(256).split()[1]) * PAGE

    def close(self):
        """Stop looking."""
        if self.handle is not None:
            self.handle.cancel()
            self.handle = None
        if self.statm is not None:
            self.statm.close()
            self.statm = None

    # For tests.
