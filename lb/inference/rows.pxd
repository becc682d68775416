"""Batches taken apart into their rows, and answers put together from rows, for models that treat each row apart.

A row of a request is the request that has this row alone: the same model, version, parameters, names, datatypes and
requested outputs, and 1 as the first dimension of each input. So its key is the one of a client's request with a batch
of 1, and they share what is kept under it.

Answers are put together only where nothing but their data differs: model, version, parameters, and the outputs' names,
datatypes, further dimensions and parameters are the same. Each output has as many rows as were asked for. Whatever is
otherwise is a doubt, and the model is asked for the batch as a whole.
"""

from libc.stdint cimport int64_t
from lb.net.buffer cimport tg_buffer
from lb.inference.answer cimport Slice
from lb.inference.request cimport InferRequest
from lb.inference.template cimport Template


cdef enum:
    MOST_ROWS = 1024                  # of a batch that is taken apart: each costs its worker about a microsecond


cdef struct Row:
    unsigned char[32] key
    int same                          # the first row of the batch with this key
    bint found
    size_t at                         # its stored answer in `found`
    size_t size


cdef class Rows:
    cdef InferRequest request         # the batch
    cdef int count                    # its rows
    cdef int distinct                 # of which no two are equal
    cdef Row *rows
    cdef size_t *starts               # of each input's rows in its data, and the end of the last
    cdef int *asked                   # the rows that the model is asked for
    cdef int asked_count
    cdef bint whole                   # the model is asked for the batch as it came
    cdef tg_buffer found              # stored answers, one after another
    cdef tg_buffer packed             # data of answers that had it as typed contents
    cdef tg_buffer form               # what all answers have in common, as the answer to one row; empty: none is read
    cdef tg_buffer scratch
    cdef tg_buffer answer             # of the batch
    cdef Slice *slices                # by outputs, then rows
    cdef int output_count

    # Whatever was taken or asked for is forgotten: the look-up begins.
    cdef void forget(self) noexcept
    # A key for the batch, by those of its rows. 0, or -1 when hashing failed.
    cdef int digest(self, const unsigned char *secret, unsigned char *out) noexcept
    # The answer that is kept under the row's key was appended to `found`.
    cdef void take(self, int row, size_t size) noexcept
    # All stored answers are taken. The number of rows that the model has to be asked for: equal ones once.
    cdef int settle(self) noexcept
    # The request for these rows. It lives on the memory of the batch's request; its `digest` is not to be asked for.
    # None: out of memory.
    cdef InferRequest ask(self)
    # The model is to be asked for the batch as it came; what was found is forgotten.
    cdef InferRequest ask_whole(self)
    # Puts `answer` together. `message` answers the request that `ask` gave, and is read until the next call; it is not
    # looked at where no row is asked for. 0; -1: the answers do not fit together, or memory is out.
    cdef int combine(self, const char *message, size_t size) noexcept
    # Appends the answer to one of the rows that were asked for, as it is kept. 0, or -1: out of memory.
    cdef int row_answer(self, int row, tg_buffer *out) noexcept

    cdef int lay_out(self) noexcept
    cdef int hash_rows(self, const unsigned char *secret) noexcept
    cdef void find_repeats(self) noexcept
    cdef int take_answer(self, const char *message, size_t size, const int *places, int count) noexcept
    cdef int assemble(self) noexcept
    cdef size_t run_end(self, int at) noexcept
    cdef size_t asked_size(self, const size_t *starts) noexcept
    cdef int place(self, int row) noexcept


# The rows of a request that may be cached, with their keys under `secret`; None where it has less than 2 or more than
# MOST_ROWS, where an input has no rows or other inputs have more or less of them, and when memory is out.
cdef Rows split_rows(InferRequest request, const unsigned char *secret)
