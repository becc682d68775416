"""What is learnt of a model's batches, for its tests."""

from libc.string cimport memset
from backend.inference.batch_size cimport batch_size_ran, batch_size_rows, tg_batch_sizes


cdef class BatchSize:
    cdef tg_batch_sizes sizes

    def __cinit__(self):
        memset(&self.sizes, 0, sizeof(tg_batch_sizes))

    def ran(self, rows: int, ns: int, now: int) -> None:
        batch_size_ran(&self.sizes, rows, ns, now)

    def rows(self, most: int, now: int) -> int:
        return batch_size_rows(&self.sizes, most, now)
