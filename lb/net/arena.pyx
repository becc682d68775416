"""Memory that one side of a Unix socket fills and the other reads: see arena.pxd."""

cimport cython
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free, malloc

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <sys/vfs.h>
    #include <linux/magic.h>
    #include <unistd.h>

    /* Seals of an arena: its size stays, and nobody else gets to write there. */
    #define TG_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL)

    static int tg_arena_make(size_t size, char **memory)
    {
        int fd = memfd_create("tidegate-arena", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        void *at;
        if (fd < 0)
            return -1;
        if (ftruncate(fd, (off_t)size) == 0) {
            at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            if (at != MAP_FAILED) {
                if (fcntl(fd, F_ADD_SEALS, TG_SEALS) == 0) {
                    *memory = at;
                    return fd;
                }
                munmap(at, size);
            }
        }
        close(fd);
        return -1;
    }

    /* Takes the pages now: without them a write to the memory would end the process. */
    static int tg_arena_pages(int fd, size_t at, size_t size)
    {
        int rc;
        do
            rc = fallocate(fd, 0, (off_t)at, (off_t)size);
        while (rc < 0 && errno == EINTR);
        return rc;
    }

    static const char *tg_arena_map(int fd, size_t most, char **data, size_t *size)
    {
        struct stat what;
        struct statfs where;
        int seals = fcntl(fd, F_GET_SEALS);
        void *at;
        if (seals < 0 || fstatfs(fd, &where) < 0 || fstat(fd, &what) < 0)
            return "it is no memory file";
        if (where.f_type != TMPFS_MAGIC || !S_ISREG(what.st_mode))
            return "it is no memory file";        /* of huge pages, a read may find none */
        if (!(seals & F_SEAL_SHRINK))
            return "it may shrink";
        if (what.st_size < 1 || (size_t)what.st_size > most)
            return "its size is not one of an arena";
        at = mmap(NULL, (size_t)what.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (at == MAP_FAILED)
            return "it cannot be mapped";
        *data = at;
        *size = (size_t)what.st_size;
        return NULL;
    }
    """
    int tg_arena_make(size_t size, char **memory) nogil
    int tg_arena_pages(int fd, size_t at, size_t size) nogil
    const char *tg_arena_map(int fd, size_t most, char **data, size_t *size) nogil

cdef extern from "<sys/mman.h>" nogil:
    int munmap(void *memory, size_t size)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)


@cython.final
cdef class Arena:

    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        cdef int i
        for i in range(ARENA_UNITS):
            free(self.blocks[i])
        if self.memory != NULL:
            munmap(self.memory, ARENA_SIZE)
        if self.fd >= 0:
            close(self.fd)

    cdef tg_block *take(self, size_t size) noexcept:
        cdef uint32_t need, unit = 0, free_units = 0
        cdef tg_block *block
        if size == 0 or size > ARENA_SIZE - ARENA_ALIGNMENT:
            return NULL
        need = <uint32_t>((size + ARENA_ALIGNMENT + ARENA_UNIT - 1) // ARENA_UNIT)
        if self.used + need > ARENA_UNITS:
            return NULL
        while free_units < need:
            if unit == ARENA_UNITS:
                return NULL
            if self.blocks[unit] != NULL:
                unit += self.blocks[unit].units
                free_units = 0
            else:
                unit += 1
                free_units += 1
        if unit > self.peak:
            if tg_arena_pages(self.fd, <size_t>self.peak * ARENA_UNIT, <size_t>(unit - self.peak) * ARENA_UNIT) < 0:
                return NULL
            self.peak = unit
        block = <tg_block *>malloc(sizeof(tg_block))
        if block == NULL:
            return NULL
        block.unit = unit - need
        block.units = need
        block.offset = block.unit * ARENA_UNIT + <uint32_t>(-size % ARENA_ALIGNMENT)
        block.size = <uint32_t>size
        block.filled = 0
        block.given = False
        block.data = self.memory + block.offset
        self.blocks[block.unit] = block
        self.used += need
        return block

    cdef void drop(self, tg_block *block) noexcept:
        self.blocks[block.unit] = NULL
        self.used -= block.units
        free(block)

    cdef int give_back(self, uint32_t offset) noexcept:
        cdef tg_block *block = NULL if offset >= ARENA_SIZE else self.blocks[offset // ARENA_UNIT]
        if block == NULL or block.offset != offset or not block.given:
            return -1
        self.drop(block)
        return 0


cdef Arena new_arena():
    cdef Arena arena = Arena.__new__(Arena)
    arena.fd = tg_arena_make(ARENA_SIZE, &arena.memory)
    return None if arena.fd < 0 else arena


@cython.final
cdef class View:

    def __dealloc__(self):
        if self.mapping == NULL:
            return
        self.mapping.seen -= self.size
        if self.mapping.user != NULL:
            self.mapping.tell(self.mapping.user, self.offset)
        mapping_release(self.mapping)


cdef tg_mapping *map_arena(int fd, const char **problem) noexcept:
    cdef tg_mapping *mapping = <tg_mapping *>calloc(1, sizeof(tg_mapping))
    if mapping == NULL:
        problem[0] = b"out of memory"
    else:
        problem[0] = tg_arena_map(fd, ARENA_MOST, &mapping.data, &mapping.size)
        if problem[0] != NULL:
            free(mapping)
            mapping = NULL
        else:
            mapping.references = 1
    close(fd)
    return mapping


cdef void mapping_release(tg_mapping *mapping) noexcept:
    mapping.references -= 1
    if mapping.references == 0:
        munmap(mapping.data, mapping.size)
        free(mapping)


cdef View view_of(tg_mapping *mapping, uint32_t offset, uint32_t size):
    cdef View view
    if size == 0 or offset > mapping.size or size > mapping.size - offset or size > mapping.size - mapping.seen:
        return None
    try:
        view = View.__new__(View)
    except MemoryError:
        return None
    view.mapping = mapping
    view.offset = offset
    view.size = size
    view.data = mapping.data + offset
    mapping.references += 1
    mapping.seen += size
    return view
