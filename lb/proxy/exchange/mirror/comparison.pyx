"""The answer to a copy and the one to its original: see comparison.pxd.

Small answers are compared where the second one ends. Others are compared by a thread of the worker, without Python's
lock, so that no request waits for it.
"""

from libc.stdint cimport uint32_t
from lb.inference.compare cimport (
    COMPARED_DIFFERENT, COMPARED_SAME, compare_answers, tg_output,
)
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size

from lb.proxy.exchange.mirror.report import DIFFERENT, EQUAL, SKIPPED, Found, background, report_of

cdef enum:
    PREFIX = 5                        # of a message of gRPC: a flag and the length
    SMALL = 32 * 1024                 # bytes of both answers that are compared at once


cdef class Comparer:
    """By the plan of a mirror's comparison (`ComparePlan`), for the route of that name."""

    def __init__(self, plan, size_t max_held, str route not None):
        self.tolerance.absolute = plan.absolute
        self.tolerance.relative = plan.relative
        self.tolerance.nan_equal = plan.nan_equal
        self.max_answer = plan.max_answer
        self.max_held = max_held
        self.report = report_of(route)

    cdef Comparison begin(self, bint framed):
        cdef Comparison made = Comparison.__new__(Comparison)
        made.comparer = self
        made.framed = framed
        made.original_status = made.copy_status = UNKNOWN_STATUS
        return made


cdef class Comparison:

    def __dealloc__(self):
        if self.comparer is not None:
            self.clear()

    cdef void take_original(self, const char *data, size_t size) noexcept:
        if self.original_status == UNKNOWN_STATUS:
            self.take(&self.original, data, size)

    cdef void take_copy(self, const char *data, size_t size) noexcept:
        if self.copy_status == UNKNOWN_STATUS:
            self.take(&self.copy, data, size)

    cdef void take(self, tg_buffer *answer, const char *data, size_t size) noexcept:
        cdef Comparer comparer = self.comparer
        if self.over:
            return
        if (tg_buffer_size(answer) + size > comparer.max_answer + PREFIX or comparer.held + size > comparer.max_held
                or tg_buffer_append(answer, data, size) < 0):
            self.give_up()
        else:
            comparer.held += size

    cdef void original_ended(self, int status) noexcept:
        if self.original_status == UNKNOWN_STATUS:
            self.original_status = status
            self.settle()

    cdef void copy_ended(self, int status) noexcept:
        if self.copy_status == UNKNOWN_STATUS:
            self.copy_status = status
            self.settle()

    cdef void settle(self) noexcept:
        if self.over or self.original_status == UNKNOWN_STATUS or self.copy_status == UNKNOWN_STATUS:
            return
        if (self.original_status or self.copy_status
                or tg_buffer_size(&self.original) + tg_buffer_size(&self.copy) <= <size_t>SMALL):
            self.compare()
        elif not background.submit(self.compare):
            self.give_up()

    cdef void give_up(self) noexcept:
        if not self.over:
            self.comparer.report.record(SKIPPED)
        self.clear()

    cdef void clear(self) noexcept:
        self.over = True
        self.comparer.held -= tg_buffer_size(&self.original) + tg_buffer_size(&self.copy)
        tg_buffer_free(&self.original)
        tg_buffer_free(&self.copy)

    def compare(self) -> None:
        """Compares the two, and reports what is found."""
        cdef Comparer comparer = self.comparer
        cdef int result
        cdef const char *first
        cdef const char *second
        cdef size_t first_size, second_size
        if self.original_status or self.copy_status:
            if self.original_status == self.copy_status:
                comparer.report.record(EQUAL)
            else:
                comparer.report.record_statuses(self.original_status, self.copy_status)
            self.clear()
            return
        first, first_size = tg_buffer_head(&self.original), tg_buffer_size(&self.original)
        second, second_size = tg_buffer_head(&self.copy), tg_buffer_size(&self.copy)
        if not unframed(&second, &second_size) or (self.framed and not unframed(&first, &first_size)):
            self.give_up()
            return
        with nogil:
            result = compare_answers(first, first_size, second, second_size, &comparer.tolerance, &self.found)
        if result == COMPARED_SAME or result == COMPARED_DIFFERENT:
            comparer.report.record(DIFFERENT if result == COMPARED_DIFFERENT else EQUAL, *self.compared())
            self.clear()
        else:
            self.give_up()

    cdef object compared(self):
        """(model, what was found of each output)."""
        cdef const tg_output *each
        cdef int i
        outputs = []
        for i in range(self.found.output_count):
            each = &self.found.outputs[i]
            outputs.append(Found(
                each.name.data[:each.name.size].decode("utf-8", "replace"), each.what, each.count, each.different,
                each.absolute, each.relative, each.at, each.first, each.second,
            ))
        return self.found.model.data[:self.found.model.size].decode("utf-8", "replace"), outputs


cdef bint unframed(const char **message, size_t *size) noexcept:
    """Takes the prefix off a message that stands alone and is not compressed."""
    cdef const unsigned char *at = <const unsigned char *>message[0]
    if size[0] < PREFIX or at[0]:
        return False
    if (<uint32_t>at[1] << 24 | <uint32_t>at[2] << 16 | <uint32_t>at[3] << 8 | at[4]) != size[0] - PREFIX:
        return False
    message[0] += PREFIX
    size[0] -= PREFIX
    return True
