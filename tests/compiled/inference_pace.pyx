"""What is learnt of a model's batches, for its tests."""

from libc.string cimport memset
from backend.inference.pace cimport pace_ran, pace_rows, tg_pace


cdef class Pace:
    cdef tg_pace pace

    def __cinit__(self):
        memset(&self.pace, 0, sizeof(tg_pace))

    def ran(self, rows: int, ns: int, now: int) -> None:
        pace_ran(&self.pace, rows, ns, now)

    def rows(self, most: int, now: int) -> int:
        return pace_rows(&self.pace, most, now)
