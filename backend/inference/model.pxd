"""One version of a model, as threads without the interpreter see it."""

from libc.stdint cimport int64_t, uint64_t
from backend.inference.counters cimport tg_counters
from backend.ort.c_api cimport OrtRunOptions, OrtSession
from backend.ort.session cimport Session


cdef enum:
    ANY_SIZE = -1
    ANY_FILLED = -2                   # any size but 0


ctypedef struct tg_spec:
    # An input or an output.
    const char *name
    size_t name_size
    int datatype                      # DT_… of lb.inference.datatypes
    int element                       # its number in ONNX
    int rank
    int64_t *shape                    # ANY_SIZE, ANY_FILLED


ctypedef struct tg_model:
    OrtSession *session               # NULL: Python's binding runs the model
    OrtRunOptions *options
    tg_spec *inputs
    tg_spec *outputs
    int input_count
    int output_count
    const char *head                  # the fields of an answer that say which model it is of
    size_t head_size


cdef class Served:
    cdef tg_model c
    # The name and the version.
    cdef readonly object model        # type: Model
    cdef Session session              # None: Python's binding runs the model
    cdef list held                    # what `c` points to
    # The most rows that inferences are merged to; 1: they never are.
    cdef public int max_batch
    cdef tg_counters counters

    cdef int index_of(self, const char *name, size_t size) noexcept
    cdef int output_of(self, const char *name, size_t size) noexcept
