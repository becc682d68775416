"""Inferences that are run together: their tensors side by side, and what the run gave. Shared by their answers, which
are written from its memory."""

from libc.stdint cimport int64_t, uint64_t
from backend.inference.model cimport tg_model
from backend.ort.c_api cimport OrtRunOptions, OrtStatus, OrtValue
from lb.net.link cimport tg_link


ctypedef struct tg_result:
    # An output: raw as the protocol has it.
    const char *data
    size_t size
    int64_t *shape
    int rank
    size_t *ends                      # of BYTES: where each row ends; NULL of others, whose rows have one size
    char *text                        # of BYTES: `data`, to be freed


ctypedef struct tg_batch:
    tg_link link                      # in a queue of the threads
    void *queue                       # whose inferences they are
    const tg_model *model
    tg_link members                   # tg_inference, in the order of their rows
    int count
    int left                          # members that nobody waits for any more
    int64_t rows
    size_t size                       # bytes of the inputs
    int references                    # of inferences whose answers are not written yet, and of the run
    int wanted_count
    const int *wanted                 # of the first member, and so of all
    OrtRunOptions *options            # of this run alone, which can be ended by them; NULL: the model's
    # Made by the run.
    const char **names                # of inputs, then of the wanted outputs, then of states that are not among those
    OrtValue **values                 # the same
    void **copies                     # of inputs that could not be read in place
    int *state_at                     # of the model's states: where in `values` their outputs are
    tg_result *results                # of the wanted outputs
    OrtStatus *status                 # what ONNX Runtime says of a run that failed
    const char *problem               # what else went wrong
    uint64_t began                    # monotonic ns
    uint64_t inferring
    uint64_t inferred
    uint64_t ended


# For inferences of a model that want `wanted_count` outputs; one reference, the caller's. NULL: no memory.
cdef tg_batch *batch_new(const tg_model *model, int wanted_count) noexcept
# Gives a reference back: the last one frees the batch.
cdef void batch_release(void *batch) noexcept
# Gives the inputs back, which nobody needs when the run is over. Needs no interpreter.
cdef void batch_drop_inputs(tg_batch *batch) noexcept nogil
