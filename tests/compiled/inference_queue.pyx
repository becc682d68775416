"""The queue of a model's inferences, for its tests: inferences without messages."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from backend.inference.inference cimport tg_inference
from backend.inference.queue cimport (
    queue_due, queue_free, queue_full, queue_init, queue_push, queue_remove, queue_take, tg_queue,
)
from lb.net.link cimport link_empty, link_init, link_remove, tg_link


cdef class Waiting:
    """An inference; those with equal keys may be merged, None runs alone."""
    cdef tg_inference *one
    cdef bytes held
    cdef readonly object key
    cdef readonly int rows
    cdef readonly int level

    def __cinit__(self, key=None, int rows=1, uint64_t since=0, int level=0):
        self.one = <tg_inference *>calloc(1, sizeof(tg_inference))
        if self.one == NULL:
            raise MemoryError
        self.key = key
        self.rows = rows
        self.level = level
        self.one.link.owner = self.one
        self.one.rows = rows
        self.one.since = since
        self.one.level = level
        if key is not None:
            self.held = key.encode()
            self.one.key = self.held
            self.one.key_size = <size_t>len(self.held)

    def __dealloc__(self):
        free(self.one)


cdef class Queue:
    cdef tg_queue queue
    cdef dict known

    def __cinit__(self, uint64_t delay, int levels=1, int most=1000):
        cdef int level
        if queue_init(&self.queue, delay, levels) < 0:
            raise MemoryError
        for level in range(levels):
            self.queue.levels[level].most = most
        self.known = {}

    def __dealloc__(self):
        queue_free(&self.queue)

    def full(self) -> bool:
        return queue_full(&self.queue)

    def __len__(self):
        return self.queue.count

    def push(self, Waiting waiting) -> None:
        self.known[<size_t>waiting.one] = waiting
        assert queue_push(&self.queue, waiting.one) == 0

    def remove(self, Waiting waiting) -> None:
        queue_remove(&self.queue, waiting.one)

    def take(self, uint64_t now, int most) -> list:
        cdef tg_link taken
        link_init(&taken)
        rows = queue_take(&self.queue, now, most, &taken)
        found = []
        while not link_empty(&taken):
            found.append(self.known[<size_t>taken.next.owner])
            link_remove(taken.next)
        assert rows == sum(each.rows for each in found)
        return found

    def next_due(self) -> int | None:
        cdef uint64_t due = queue_due(&self.queue)
        return None if due == <uint64_t>-1 else due
