"""Runs inferences: a queue for each model, threads that all of them share, and the end of a run."""

from libc.stdint cimport int64_t, uint64_t
from backend.inference.batch cimport tg_batch
from backend.inference.inference cimport tg_inference
from backend.inference.model cimport Served
from backend.inference.batch_size cimport tg_batch_sizes
from backend.inference.queue cimport tg_queue
from backend.inference.sequences cimport InferenceSequence, Sequences
from backend.inference.threads cimport tg_threads
from lb.net.link cimport tg_link
from lb.net.poller cimport Poller, Source, Timed
from lb.net.timers cimport Timers


cdef class Engine(Source):
    """Belongs to one loop, whose `poller` tells it of runs that have ended on a thread."""
    cdef Timers timers
    cdef tg_threads *threads
    cdef readonly int runs            # at once
    cdef uint64_t short_ns            # a run that takes no longer may take place on the loop itself
    cdef list touched                 # queues to be looked at when the loop has taken what came, in turn
    cdef bint looking                 # at them, now
    cdef readonly int running         # batches, of all models
    cdef uint64_t spent               # ns that runs on the loop have taken in this turn,
    cdef uint64_t unwritten           # and since answers were written
    # run_in_python(batch): has a PythonBatch run by Python's binding, which calls its `finish` on the loop.
    cdef object run_in_python

    cdef void touch(self, ModelQueue queue) noexcept
    cdef void finish(self, tg_batch *batch) noexcept


cdef class ModelQueue(Timed):
    """The inferences of one model: `submit` takes them, and their waiters hear of their end."""
    cdef Engine engine
    cdef readonly Served served
    cdef tg_queue queue
    cdef int default_level            # of inferences without a priority, or with one that there is not
    cdef Sequences sequences          # None: its inferences belong to none
    cdef int held                     # inferences behind others of their sequences
    cdef tg_link dropped              # of these, those that will not run
    cdef readonly int runs            # at once, of this model
    cdef readonly int running         # batches
    cdef bint touched
    # Bytes of inputs up to which a run is known to be short; 0: none is, or its time does not follow from its size.
    cdef readonly size_t short_size
    cdef tg_batch_sizes sizes         # what merging brings
    cdef bint steady                  # the time of a run follows from the size of its inputs

    # The inference waits for its run; where the queue is full, its waiter hears of that at once.
    cdef void submit(self, tg_inference *inference, uint64_t now) noexcept
    # Nobody waits for the inference any more: it is not run, or its answer is thrown away. It is the queue's to free.
    cdef void abandon(self, tg_inference *inference) noexcept
    cdef void pump(self, uint64_t now) noexcept
    cdef void give(self, tg_batch *batch) noexcept
    cdef int64_t most_rows(self, uint64_t now) noexcept
    cdef void expire(self, uint64_t now) noexcept
    # An inference of a sequence is over, one way or another: the next one has its turn.
    cdef void step(self, tg_inference *inference, bint ran, uint64_t now) noexcept
    # The sequence ends, since an inference of it does not run; neither do those behind.
    cdef void break_off(self, InferenceSequence sequence) noexcept
    cdef void drop(self, uint64_t now) noexcept
    cdef bint start(self, uint64_t now) noexcept
    cdef void learn(self, const tg_batch *batch) noexcept
    cdef void finished(self, tg_batch *batch, uint64_t now) noexcept
    cdef bint split(self, tg_batch *batch) noexcept
    cdef void again(self, tg_batch *batch) noexcept
    cdef void deliver(self, tg_inference *inference, uint64_t now) noexcept
    cdef object refuse(self, tg_inference *inference)
    cdef object refuse_late(self, tg_inference *inference)
    cdef object run_in_python(self, tg_batch *batch)
    cdef object mixed(self, tg_batch *batch)
    cdef object explain(self, tg_batch *batch, tg_inference *inference)


cdef class PythonBatch:
    """A batch that Python's binding runs."""
    cdef tg_batch *batch

    cdef int take(self, int i, tuple shape, bytes raw) except -1
