"""Series of models in the shared segment: see model_table.pxd for the contract and segment.h for the layout.

The master cannot give models their series, as it does those of routes and endpoints: clients name them. So a worker
takes a row for a model itself, the first time that the model has answered, and all workers count there, each in its own
stripe. Names that have never answered are counted together, under "other": clients cannot fill the table with models
that are not there. A row stays its model's while the daemon runs.

Who adds a model takes the next row, writes the name, and then puts both into a free slot by compare-and-swap. Of two
workers that add the same name at once one wins; the row of the other stays empty, as that of a process does that dies
in between. Readers find rows through the slots, and so only whole ones.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from lb.shared.atomics cimport tg_cas64, tg_fetch_add64, tg_load64, tg_load64_relaxed
from lb.shared.hashing cimport hash64_keyed
from lb.shared.segment cimport TG_MODEL_NAME, TG_MODEL_ROW, TG_MODEL_SLOTS, Segment, tg_add, tg_model_head
from lb.shared.segment_words cimport SERIES_SIZE

from lb.errors import TidegateError
from lb.shared.words import OTHER_MODEL

cdef const char *OTHER_NAME = b"other"
cdef size_t OTHER_LENGTH = 5
cdef uint64_t TAG = ~<uint64_t> TG_MODEL_ROW


@cython.final
cdef class ModelTable:
    """The models of `segment`. Any process may use them, the master too."""

    def __init__(self, Segment segment not None):
        segment.check_open()
        self.segment = segment
        self.head = <tg_model_head *> (segment.base + segment.header.models_offset)
        self.slots = <uint64_t *> (self.head + 1)
        self.mask = <uint64_t> segment.header.models * TG_MODEL_SLOTS - 1
        self.names = <char *> (self.slots + self.mask + 1)

    def __repr__(self):
        return f"<ModelTable capacity={self.capacity} used={self.used}>"

    cdef uint64_t row(self, str pool, uint64_t pool_key, const char *name, size_t n, bint proven) noexcept:
        cdef uint64_t hashed = hash64_keyed(name, n, self.segment.header.model_secret) ^ pool_key
        cdef uint64_t at = (hashed >> 20) & self.mask, slot
        while True:
            slot = tg_load64(&self.slots[at])
            if slot == 0:
                return self.add(pool, name, n, hashed, at) if proven else 0
            if (slot ^ hashed) & TAG == 0:
                return (slot & TG_MODEL_ROW) - 1
            at = (at + 1) & self.mask         # three slots of four stay free

    cdef uint64_t add(self, str pool, const char *name, size_t n, uint64_t hashed, uint64_t at) noexcept:
        cdef uint64_t row, slot
        cdef bytes text
        if memchr(name, 0, n) != NULL or tg_load64_relaxed(&self.head.used) >= self.segment.header.models - 1:
            return 0
        try:
            name[:n].decode()
            text = pool.encode() + b"\0" + name[:n]
        except UnicodeError:
            return 0
        if <size_t> len(text) >= <size_t> TG_MODEL_NAME:
            return 0
        row = tg_fetch_add64(&self.head.used, 1) + 1
        if row >= self.segment.header.models:
            return 0
        memcpy(self.names + row * TG_MODEL_NAME, <const char *> text, <size_t> len(text))
        while not tg_cas64(&self.slots[at], 0, (hashed & TAG) | (row + 1)):
            slot = tg_load64(&self.slots[at])
            if (slot ^ hashed) & TAG == 0:
                return (slot & TG_MODEL_ROW) - 1        # another worker was faster
            at = (at + 1) & self.mask
        return row

    # From Python: the master, tests.

    @property
    def capacity(self) -> int:
        """How many models may have a series of their own."""
        return self.segment.header.models - 1

    @property
    def used(self) -> int:
        """How many have one."""
        self.segment.check_open()
        return min(tg_load64_relaxed(&self.head.used), self.capacity)

    def rows(self) -> list[tuple[str, str, int]]:
        """(pool, model, number of its series) of every model; of those that had no room, with an empty pool."""
        cdef uint64_t at, slot, row
        cdef const char *name
        cdef list found = []
        self.segment.check_open()
        first = self.segment.series_capacity
        if not tg_load64_relaxed(&self.head.used):
            return found                      # or a look would allocate all its pages
        found.append(("", OTHER_MODEL, first))
        for at in range(self.mask + 1):
            slot = tg_load64(&self.slots[at])
            if slot:
                row = (slot & TG_MODEL_ROW) - 1
                name = self.names + row * TG_MODEL_NAME
                pool, _, model = (<bytes> name[:TG_MODEL_NAME]).partition(b"\0")
                found.append((pool.decode(), model.partition(b"\0")[0].decode(), first + row))
        return found


@cython.final
cdef class PoolModels:
    """The models of the pool `name`, for a worker to count by."""

    def __init__(self, Segment segment not None, str name not None):
        cdef bytes text = name.encode()
        self.table = ModelTable(segment)
        self.pool = name
        # Under another secret than models, which no name can be chosen to undo.
        self.pool_key = hash64_keyed(<const char *> text, <size_t> len(text), segment.header.cost_secret)

    cdef uint64_t *words(self, const char *name, size_t n, bint proven) noexcept:
        cdef tg_recent *recent
        cdef uint64_t row
        if n == 0:
            return self.words_of(0)
        # A row stays its model's, so that what was found once is right for ever.
        recent = &self.recent[(n + <unsigned char> name[0] + 3 * <unsigned char> name[n - 1]) & (RECENT - 1)]
        if recent.size == n and memcmp(recent.name, name, n) == 0:
            return recent.words
        if self.other == 0:                   # before any of its models, which may take the rest of the room
            self.other = self.table.row(self.pool, self.pool_key, OTHER_NAME, OTHER_LENGTH, True)
        row = self.table.row(self.pool, self.pool_key, name, n, proven)
        if row and n <= RECENT_NAME:
            recent.words = self.words_of(row)
            recent.size = <uint32_t> n
            memcpy(recent.name, name, n)
        return self.words_of(row)

    cdef uint64_t *words_of(self, uint64_t row) noexcept:
        cdef Segment segment = self.table.segment
        if segment.worker < 0:
            return NULL
        if row == 0 and self.other == 0:
            self.other = self.table.row(self.pool, self.pool_key, OTHER_NAME, OTHER_LENGTH, True)
        return segment.series(<unsigned int> (segment.header.series_capacity + (row if row else self.other)))

    def add(self, model: bytes, proven: bool, word: int, amount: int = 1) -> None:
        """Adds to a word of a model in this worker's stripe, for callers in Python. TidegateError in the master."""
        cdef uint64_t *found = self.words(<const char *> model, <size_t> len(model), proven)
        if found == NULL:
            raise TidegateError("the master has no stripe of series")
        if not 0 <= word < SERIES_SIZE or amount < 0:
            raise ValueError(f"no such counter or amount: {word}, {amount}")
        tg_add(found + <int> word, amount)
