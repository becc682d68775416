"""Memory that one side of a Unix socket fills and the other reads: an arena, which is a memfd, and its blocks.

Each side makes an arena of its own and passes its descriptor on. Blocks are given out by the side that writes; the
other side says when it has read one. Nothing in the memory says where blocks are, so nothing that a peer writes there
can mislead.
"""

from libc.stdint cimport uint32_t


cdef enum:
    ARENA_SIZE = 64 * 1024 * 1024     # bytes; their pages are taken when blocks first lie there
    ARENA_UNIT = 16 * 1024            # blocks are whole units
    ARENA_UNITS = 4096
    ARENA_MOST = 1024 * 1024 * 1024   # bytes of a peer's arena
    ARENA_ALIGNMENT = 64              # of the end of a block's bytes


ctypedef struct tg_block:
    # Bytes in our own arena.
    uint32_t unit                     # its first
    uint32_t units
    uint32_t offset                   # where the bytes begin
    uint32_t size
    uint32_t filled                   # bytes that are there
    bint given                        # the peer knows of it, and has not given it back
    char *data


cdef class Arena:
    """Our own memory, which a peer reads."""
    cdef int fd
    cdef char *memory
    cdef uint32_t peak                # units that have had their pages
    cdef readonly uint32_t used       # units in blocks
    cdef tg_block *blocks[ARENA_UNITS]        # by their first unit

    # A block of `size` bytes, more than 0, whose end is aligned; NULL: there is no room.
    cdef tg_block *take(self, size_t size) noexcept
    # The block is free again.
    cdef void drop(self, tg_block *block) noexcept
    # The peer gives back what begins at `offset`. -1: it was not given that.
    cdef int give_back(self, uint32_t offset) noexcept


ctypedef struct tg_mapping:
    # A peer's arena, mapped for reading. It stays until the last view is gone.
    char *data
    size_t size
    size_t seen                       # bytes of views
    int references                    # of the session and of views
    void *user                        # who is told of views that go; NULL: nobody any more
    void (*tell)(void *user, uint32_t offset) noexcept


cdef class View:
    """Bytes of a peer's arena, which are given back when the view goes. The peer may change them at any time."""
    cdef tg_mapping *mapping
    cdef uint32_t offset
    cdef uint32_t size
    cdef const char *data


# A new arena, or None: the kernel refused; `errno` says why.
cdef Arena new_arena()
# Maps what `fd` is, which is closed. NULL: `problem` says what is wrong with it.
cdef tg_mapping *map_arena(int fd, const char **problem) noexcept
cdef void mapping_release(tg_mapping *mapping) noexcept
# `size` bytes at `offset`. None: they are not inside, or the peer has given more at once than it has; or no memory.
cdef View view_of(tg_mapping *mapping, uint32_t offset, uint32_t size)
