"""One inference: what a message asks of a model, until it is answered.

The tensors stay where they came: operands point into the message's memory, which the inference owns.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.stdlib cimport malloc
from backend.inference.model cimport Served
from backend.ort.c_api cimport OrtValue
from lb.http.grpc.protobuf cimport span
from lb.inference.message cimport RequestMessage
from lb.net.link cimport tg_link
from lb.net.poller cimport Timed


# gRPC's status codes, of those that inferences end with.
cdef enum:
    STATUS_OK = 0
    STATUS_INVALID_ARGUMENT = 3
    STATUS_DEADLINE_EXCEEDED = 4
    STATUS_RESOURCE_EXHAUSTED = 8
    STATUS_UNIMPLEMENTED = 12
    STATUS_INTERNAL = 13
    STATUS_UNAVAILABLE = 14

cdef enum:
    MESSAGE_ALIGNMENT = 64            # of the end of a message: its last tensor, which is its end, is aligned then


ctypedef struct tg_operand:
    # An input tensor, raw as the protocol has it; its rank is the model's.
    const char *data
    size_t size
    int64_t *shape


ctypedef struct tg_kept:
    # The state of a sequence: for each state of the model its value, that of an inference that runs, or NULL: the first
    # one is to come.
    int count
    OrtValue **now
    OrtValue **next


# How far an inference has come.
cdef enum:
    INFERENCE_NEW = 0                 # in no queue
    INFERENCE_HELD                    # behind another one of its sequence
    INFERENCE_WAITS
    INFERENCE_RUNS
    INFERENCE_DONE                    # `status` says how


ctypedef struct tg_inference:
    tg_link link                      # in its group, then in its batch
    tg_link turn                      # among those of its waiter, in the order in which they came
    PyObject *waiter                  # the Waiter, which leaves before it goes; NULL = nobody waits any more
    PyObject *served                  # the Served, held; NULL: it was refused before a model was found
    PyObject *queue                   # the ModelQueue, held; NULL: it was never in one
    char *block                       # memory of the message: malloc's
    PyObject *parts                   # what holds the operands of a message that was not read in place; or NULL
    span id
    bint final                        # the client wants to be told that the answer is the last one of its request
    PyObject *finish                  # makes the answer of what the run gave, in Python; NULL: it is written as it is
    int64_t rows
    tg_operand *operands              # in the order of the model's inputs
    int wanted_count
    int *wanted                       # the outputs that are asked for, as indices, in the order of the answer
    char *key                         # what inferences that may be merged have in common; NULL = it runs alone
    size_t key_size
    bint alone                        # it has failed together with others
    # Of a model whose inferences belong to sequences.
    bint starts                       # the first one of its sequence
    bint ends                         # the last one
    span sequence_id                  # of a string; `data` is NULL where it is a number
    uint64_t sequence_number
    PyObject *sequence                # the InferenceSequence, held, as long as it is in it; or NULL
    tg_kept *kept                     # its state
    int state                         # INFERENCE_…
    uint64_t since                    # monotonic ns
    uint64_t deadline                 # monotonic ns; after it nothing is run. NEVER = none
    uint64_t priority                 # as the client gives it, 1 first; 0 = not given
    uint64_t timeout_us               # the parameter `timeout`; 0 = not given
    int level                         # of the queue, 0 first
    void *group                       # of the queue; the tg_batch of one that runs
    int begun                         # what the load is told of its end
    # The answer.
    void *batch                       # the run that gave it
    int64_t first_row                 # of its rows in the batch
    int status                        # a gRPC status code
    char *problem                     # what `status` means, UTF-8; malloc's; NULL where it is 0
    size_t problem_size


# Memory for a message of `size` bytes: malloc's; the message begins at `data`. NULL: no memory.
cdef inline char *message_memory(size_t size, char **data) noexcept nogil:
    cdef char *block = <char *>malloc(size + 2 * MESSAGE_ALIGNMENT)
    cdef size_t past
    if block != NULL:
        past = (<uintptr_t>block + size) % MESSAGE_ALIGNMENT
        data[0] = block + (MESSAGE_ALIGNMENT - past) % MESSAGE_ALIGNMENT
    return block


# Whether it failed by a fault of ours, or of the model: what a load report counts.
cdef inline bint is_our_fault(int status) noexcept nogil:
    return status != STATUS_OK and status != STATUS_INVALID_ARGUMENT and status != STATUS_UNIMPLEMENTED


cdef class Waiter(Timed):
    """Who waits for inferences, `turns` of them, in their order."""
    cdef tg_link turns

    # `inference` is done; it is the waiter's, to be freed.
    cdef void answered(self, tg_inference *inference) noexcept


# The inference that a message asks for, in its own memory. `block` is the message's memory, and the inference's from
# now on. NULL: the message is irregular (typed contents, parameters that mean something, a mistake), or there is no
# memory; `block` stays the caller's then.
cdef tg_inference *inference_read(Served served, const RequestMessage *request, char *block) noexcept
# The same of parts that Python code has made of an irregular message: `operands`, a pair of a shape and bytes for each
# input in the model's order; `wanted`, indices of outputs; `finish`, None or what makes the answer (backend.calls);
# `sequence`, None or its id (an int or bytes), whether it starts and whether it ends. Raises MemoryError.
cdef tg_inference *inference_of(Served served, list operands, list wanted, bytes id, bint final, object finish,
                                tuple sequence) except NULL
# Takes over what the parameters of a request say of its queue: `priority` and `timeout`. Malformed ones are passed
# over.
cdef void inference_hurry(tg_inference *inference, const RequestMessage *request) noexcept
# One that is done, since it cannot be asked for; `answer` is what a stream answers beside the reason. Raises
# MemoryError.
cdef tg_inference *inference_refused(int status, bytes problem, bytes answer) except NULL
# Says how it has ended; the text is copied.
cdef void inference_fail(tg_inference *inference, int status, const char *problem, size_t size) noexcept
cdef void inference_free(tg_inference *inference) noexcept
