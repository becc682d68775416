"""One version of a model, as threads without the interpreter see it."""

from libc.stdint cimport int64_t, uint64_t
from backend.inference.counters cimport tg_counters
from backend.inference.sampling cimport Sampling
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


# What an input that the server fills in says, of the sequence that an inference belongs to.
cdef enum:
    FILL_START = 0                    # whether it is the first one (Control.Kind of Triton's ModelSequenceBatching)
    FILL_READY
    FILL_END
    FILL_ID
    FILL_STATE                        # the state of the sequence


ctypedef struct tg_fill:
    int kind                          # FILL_…
    int state                         # of FILL_STATE: which state
    char[2][8] values                 # of START, READY and END: an element that is false, and one that is true
    size_t size                       # its bytes


ctypedef struct tg_state:
    # What the output of an inference is to the next one of its sequence.
    int input                         # as indices
    int output
    int64_t *shape                    # at the first inference
    const char *data                  # then; NULL: zeros
    size_t size


ctypedef struct tg_model:
    OrtSession *session               # NULL: Python's binding runs the model
    OrtRunOptions *options
    tg_spec *inputs
    tg_spec *outputs
    int input_count                   # that clients give
    int fed_count                     # and with those behind, that the server fills in
    tg_fill *fills                    # of the latter
    int output_count                  # that clients may get; behind are outputs that are state alone
    int given_count                   # all of them
    tg_state *states
    int state_count
    bint sequential                   # its inferences belong to sequences
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
    # Which inferences get spans, where the model has trace settings of its own; None: it has those of the server.
    cdef public Sampling sampling     # type: Sampling | None
    cdef bint numbered                # an input has the id of the sequence, as a number
    cdef uint64_t most_id             # the largest one
    cdef tg_counters counters

    cdef int fill(self, sequencing, list outputs) except -1
    cdef int index_of(self, const char *name, size_t size) noexcept
    cdef int output_of(self, const char *name, size_t size) noexcept
