"""What is learnt of a model's batches, for its tests."""

from libc.string cimport memset
from backend.inference.batch_size cimport batch_size_ran, batch_size_rows, tg_batch_sizes


cdef class BatchSize:
    cdef tg_batch_sizes sizes

    def __cinit__(self):
        memset(&self.sizes, 0, sizeof(tg_batch_sizes))

    def ran(self, rows: int, ns: int, now: int, merged: bool | None = None) -> None:
        """`merged`: of several inferences; by default more than one row is."""
        batch_size_ran(&self.sizes, rows, rows > 1 if merged is None else merged, ns, now)

    def rows(self, most: int, now: int, waiting: int | None = None) -> int:
        """By default as many rows wait as may be merged."""
        return batch_size_rows(&self.sizes, most if waiting is None else waiting, most, now)
