"""Runs inferences: see engine.pxd.

    submit         an inference waits in its model's queue
    pump           when the loop has taken what came: inferences that go together become a batch
    run            on a thread, or here where that takes less time than to wake one (backend.inference.run)
    finished       each inference gets its rows, or the reason why there are none; its waiter is told

When a batch fails, its members are run alone, so that none fails for its neighbour's input.
"""

import logging
import os
from collections.abc import Callable, Sequence

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport UINT64_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy
from backend.inference.batch cimport batch_new, batch_release, tg_result
from backend.inference.counters cimport counters_failed, counters_ran, counters_succeeded
from backend.inference.inference cimport (
    INFERENCE_DONE, INFERENCE_HELD, INFERENCE_RUNS, INFERENCE_WAITS, STATUS_DEADLINE_EXCEEDED, STATUS_INTERNAL,
    STATUS_INVALID_ARGUMENT, STATUS_RESOURCE_EXHAUSTED, STATUS_UNAVAILABLE, Waiter, inference_fail, inference_free,
)
from backend.inference.model cimport tg_spec
from backend.inference.batch_size cimport batch_size_ran, batch_size_rows
from backend.inference.queue cimport (
    level_oldest, queue_due, queue_free, queue_full, queue_init, queue_push, queue_remove, queue_take, tg_level,
)
from backend.inference.run cimport run
from backend.inference.sequences cimport InferenceSequence, Sequences
from backend.inference.threads cimport threads_fd, threads_give, threads_start, threads_stop, threads_take
from backend.ort.c_api cimport ORT_INVALID_ARGUMENT, ORT_LOGGING_LEVEL_FATAL, OrtStatus
from backend.ort.library cimport api, text_of
from lb.inference.datatypes cimport DT_BYTES
from lb.net.link cimport link_append, link_empty, link_init, link_remove, link_splice, tg_link
from lb.net.poller cimport monotonic_ns

from backend.model import Model

log = logging.getLogger("tidegate.backend")

cdef enum:
    # Waking a thread and being woken by it takes some ten microseconds. A run on the loop holds up everything else.
    SHORT_NS = 50_000
    # Where there is one place to run, a thread would take turns with the loop on one CPU anyway.
    SHORT_ALONE_NS = 1_000_000
    WRITE_NS = 200_000                # of runs on the loop, before their answers are written
    TURN_NS = 2_000_000               # of these, before everything else has its turn
    GROWTH = 2                        # inputs larger than those of a short run by as much are tried on the loop


cdef void run_one(void *batch) noexcept nogil:
    run(<tg_batch *>batch)


cdef class Engine(Source):

    def __cinit__(self):
        self.touched = []

    def __init__(
        self, Poller poller not None, Timers timers not None, int runs, run_in_python: Callable[[PythonBatch], None]
    ) -> None:
        """`runs` threads, on which models run. Raises OSError, MemoryError."""
        cdef int error = 0
        self.timers = timers
        self.runs = runs
        self.run_in_python = run_in_python
        self.short_ns = SHORT_ALONE_NS if runs == 1 else SHORT_NS
        timers.open()
        self.threads = threads_start(runs, run_one, &error)
        if self.threads == NULL:
            raise OSError(error, os.strerror(error))
        poller.add_input(self, os.dup(threads_fd(self.threads)))

    cdef void on_ready(self, uint32_t events) noexcept:
        cdef tg_link done
        cdef tg_batch *batch
        link_init(&done)
        threads_take(self.threads, &done)
        while not link_empty(&done):
            batch = <tg_batch *>done.next.owner
            link_remove(&batch.link)
            self.finish(batch)

    cdef void touch(self, ModelQueue queue) noexcept:
        if not queue.touched:
            queue.touched = True
            self.touched.append(queue)
            if not self.looking:
                self.poller.mark(self)

    cdef void on_flush(self) noexcept:
        """What is answered meanwhile is written before this goes on. A queue that has more to run goes behind the
        others."""
        cdef ModelQueue queue
        if self.deferred:
            return                                # the others have their turn
        self.looking = True
        while self.touched and self.spent < TURN_NS and self.unwritten < WRITE_NS:
            queue = self.touched.pop(0)
            queue.touched = False
            queue.pump(monotonic_ns())
        self.looking = False
        self.unwritten = 0
        if self.spent >= TURN_NS:
            self.spent = 0
            if self.touched:
                self.poller.defer(self)
        elif self.touched:
            self.poller.mark(self)

    cdef void finish(self, tg_batch *batch) noexcept:
        cdef ModelQueue queue = <ModelQueue>batch.queue       # held: its inferences hold it, and go
        queue.finished(batch, monotonic_ns())

    def close(self) -> None:
        """Ends the threads, whose runs are waited for; nothing may wait any more."""
        cdef tg_link left, done
        cdef tg_batch *batch
        if self.threads == NULL:
            return
        link_init(&left)
        link_init(&done)
        self.poller.remove(self)
        threads_stop(self.threads, &left, &done)
        self.threads = NULL
        while not link_empty(&left):
            batch = <tg_batch *>left.next.owner
            link_remove(&batch.link)
            batch.problem = b"the server is stopping"
            self.finish(batch)
        while not link_empty(&done):
            batch = <tg_batch *>done.next.owner
            link_remove(&batch.link)
            self.finish(batch)


cdef class ModelQueue(Timed):

    def __cinit__(self):
        link_init(&self.dropped)

    def __init__(
        self, Engine engine not None, Served served not None, levels: Sequence[tuple[int, int]], uint64_t delay,
        bint steady, int runs = 0, int default_level = 0, Sequences sequences = None
    ) -> None:
        """`levels` are those of priorities, the first goes first: how many inferences may wait, and for how many ns,
        after which one is refused (0: it is not). The oldest of a kind waits up to `delay` ns for others. `steady`: the
        time of a run follows from the size of its inputs. At most `runs` run at once (0: as many as the engine runs).
        `sequences` has those of a model whose inferences belong to sequences. Raises MemoryError."""
        cdef int i
        self.engine = engine
        self.served = served
        self.default_level = default_level
        self.steady = steady
        self.runs = min(runs, engine.runs) if runs else engine.runs
        self.sequences = sequences
        if queue_init(&self.queue, delay, len(levels)) < 0:
            raise MemoryError
        for i, (most, timeout) in enumerate(levels):
            self.queue.levels[i].most = most
            self.queue.levels[i].timeout = timeout

    def __dealloc__(self):
        queue_free(&self.queue)

    @property
    def waiting(self) -> int:
        return self.queue.count + self.held

    cdef void submit(self, tg_inference *inference, uint64_t now) noexcept:
        cdef InferenceSequence sequence
        cdef tg_level *level
        inference.since = now
        Py_INCREF(self)
        inference.queue = <PyObject *>self
        inference.level = self.default_level
        if 0 < inference.priority <= <uint64_t>self.queue.level_count:
            inference.level = <int>inference.priority - 1
        level = &self.queue.levels[inference.level]
        if level.count + self.held >= level.most:
            self.pump(now)                        # which waits for the loop to have taken all that came
        if level.count + self.held >= level.most:
            self.refuse(inference)
            self.deliver(inference, now)
            return
        if self.sequences is not None:
            if not self.sequences.enter(inference, now):
                self.deliver(inference, now)
                return
            sequence = <InferenceSequence>inference.sequence
            if sequence.busy:
                link_append(&sequence.held, &inference.link)
                inference.state = INFERENCE_HELD
                self.held += 1
                return
            sequence.busy = True
        if queue_push(&self.queue, inference) < 0:
            inference_fail(inference, STATUS_RESOURCE_EXHAUSTED, b"out of memory", 13)
            self.deliver(inference, now)
        else:
            self.engine.touch(self)

    cdef object refuse(self, tg_inference *inference):
        cdef int most = self.queue.levels[inference.level].most
        cdef bytes text = f"{self.served.model}: {most} requests are waiting already".encode()
        inference_fail(inference, STATUS_UNAVAILABLE, PyBytes_AS_STRING(text), len(text))

    cdef void abandon(self, tg_inference *inference) noexcept:
        cdef tg_batch *batch
        cdef OrtStatus *status
        inference.waiter = NULL
        link_remove(&inference.turn)
        if inference.state == INFERENCE_WAITS or inference.state == INFERENCE_HELD:
            if inference.state == INFERENCE_WAITS:
                queue_remove(&self.queue, inference)
            else:
                link_remove(&inference.link)
                self.held -= 1
            if inference.sequence != NULL:
                self.step(inference, False, monotonic_ns())
            counters_failed(&self.served.counters, monotonic_ns() - inference.since)
            inference_free(inference)
        elif inference.state == INFERENCE_RUNS:
            if inference.sequence != NULL:
                self.break_off(<InferenceSequence>inference.sequence)      # nobody knows how far it came
            batch = <tg_batch *>inference.group
            batch.left += 1
            if batch.left == batch.count and batch.options != NULL:
                status = api.RunOptionsSetTerminate(batch.options)
                if status != NULL:                # the run goes on to its end
                    api.ReleaseStatus(status)

    cdef object refuse_late(self, tg_inference *inference):
        cdef uint64_t timeout = self.queue.levels[inference.level].timeout
        cdef bytes text = f"{self.served.model}: no run was free within {timeout // 1000} µs".encode()
        inference_fail(inference, STATUS_UNAVAILABLE, PyBytes_AS_STRING(text), len(text))

    cdef void step(self, tg_inference *inference, bint ran, uint64_t now) noexcept:
        cdef InferenceSequence sequence = <InferenceSequence>inference.sequence
        cdef tg_inference *following
        cdef bint first = inference.state != INFERENCE_HELD
        self.sequences.leave(inference, now)
        if not ran:
            self.break_off(sequence)
        if not first:
            return
        sequence.busy = False
        if not link_empty(&sequence.held):
            following = <tg_inference *>sequence.held.next.owner
            link_remove(&following.link)
            self.held -= 1
            sequence.busy = True
            if queue_push(&self.queue, following) < 0:
                inference_fail(following, STATUS_RESOURCE_EXHAUSTED, b"out of memory", 13)
                self.deliver(following, now)
            else:
                self.engine.touch(self)

    cdef void break_off(self, InferenceSequence sequence) noexcept:
        self.sequences.close_one(sequence)
        if not link_empty(&sequence.held):
            link_splice(&self.dropped, &sequence.held)
            self.engine.touch(self)               # who is told may be who gives up just now

    cdef void drop(self, uint64_t now) noexcept:
        cdef tg_inference *inference
        while not link_empty(&self.dropped):
            inference = <tg_inference *>self.dropped.next.owner
            link_remove(&inference.link)
            self.held -= 1
            self.sequences.refuse_unknown(inference, ": one before was not run")
            self.deliver(inference, now)

    cdef void pump(self, uint64_t now) noexcept:
        cdef uint64_t due = UINT64_MAX
        cdef tg_inference *oldest
        cdef int i
        self.drop(now)
        self.expire(now)
        while self.running < self.runs and self.queue.count:
            if self.engine.spent >= TURN_NS or (self.engine.looking and self.engine.unwritten >= WRITE_NS):
                self.engine.touch(self)           # goes on later
                return
            if not self.start(now):
                break
            now = monotonic_ns()
        if self.queue.count and self.running < self.runs:
            due = queue_due(&self.queue)
        for i in range(self.queue.level_count):
            oldest = level_oldest(&self.queue.levels[i]) if self.queue.levels[i].timeout else NULL
            if oldest != NULL:
                due = min(due, oldest.since + self.queue.levels[i].timeout)
        if due != UINT64_MAX and due != self.deadline:
            self.engine.timers.arm(self, due)

    cdef void expire(self, uint64_t now) noexcept:
        """Those that have waited too long are refused: a run that begins now is another's."""
        cdef tg_inference *oldest
        cdef tg_level *level
        cdef int i
        for i in range(self.queue.level_count):
            level = &self.queue.levels[i]
            while level.timeout and level.count:
                oldest = level_oldest(level)
                if oldest == NULL or now - oldest.since < level.timeout:
                    break
                queue_remove(&self.queue, oldest)
                self.refuse_late(oldest)
                self.deliver(oldest, now)

    cdef void on_timer(self) noexcept:
        self.engine.touch(self)

    cdef int64_t most_rows(self, uint64_t now) noexcept:
        """Rows to run together at most. Who asks for a delay wants full batches."""
        if self.served.max_batch == 1 or self.queue.delay:
            return self.served.max_batch
        return batch_size_rows(&self.sizes, self.queue.rows, self.served.max_batch, now)

    cdef bint start(self, uint64_t now) noexcept:
        """A batch of what waits. False: everything may wait longer."""
        cdef tg_link taken
        cdef tg_inference *inference
        cdef tg_batch *batch
        cdef int64_t rows
        cdef int i
        link_init(&taken)
        # A full queue waits for nothing more: who comes next would be refused with nothing running.
        rows = queue_take(
            &self.queue, UINT64_MAX if queue_full(&self.queue) else now, self.most_rows(now), &taken)
        if rows == 0:
            return False
        batch = batch_new(&self.served.c, (<tg_inference *>taken.next.owner).wanted_count)
        while not link_empty(&taken):
            inference = <tg_inference *>taken.next.owner
            link_remove(&inference.link)
            if batch == NULL:
                inference_fail(inference, STATUS_RESOURCE_EXHAUSTED, b"out of memory", 13)
                self.deliver(inference, now)
            elif inference.deadline <= now:
                inference_fail(inference, STATUS_DEADLINE_EXCEEDED, b"the deadline has passed before the model ran", 44)
                self.deliver(inference, now)
            else:
                link_append(&batch.members, &inference.link)
                inference.group = batch
                inference.first_row = batch.rows
                batch.rows += inference.rows
                batch.count += 1
                for i in range(self.served.c.input_count):
                    batch.size += inference.operands[i].size
        if batch == NULL:
            return True
        if batch.count == 0:
            batch_release(batch)
            return True
        batch.wanted = (<tg_inference *>batch.members.next.owner).wanted
        batch.queue = <void *>self
        self.running += 1
        self.engine.running += 1
        if self.served.session is None:
            self.run_in_python(batch)
        elif batch.size < self.short_size:
            with nogil:
                run(batch)
            self.engine.spent += batch.ended - batch.began
            self.engine.unwritten += batch.ended - batch.began
            self.finished(batch, batch.ended)
        else:
            self.give(batch)
        return True

    cdef void give(self, tg_batch *batch) noexcept:
        """A run on a thread is ended when nobody waits for it any more."""
        cdef OrtStatus *status = api.CreateRunOptions(&batch.options)
        if status == NULL:
            status = api.RunOptionsSetRunLogSeverityLevel(batch.options, ORT_LOGGING_LEVEL_FATAL)
        if status != NULL:                        # without its own it goes on to its end
            api.ReleaseStatus(status)
            if batch.options != NULL:
                api.ReleaseRunOptions(batch.options)
                batch.options = NULL
        threads_give(self.engine.threads, &batch.link)

    cdef object run_in_python(self, tg_batch *batch):
        cdef PythonBatch given = PythonBatch.__new__(PythonBatch)
        given.batch = batch
        try:
            self.engine.run_in_python(given)
        except Exception as error:                # the system has no thread for it
            log.exception("%s: cannot be run", self.served.model)
            given.finish(f"{self.served.model} cannot be run: {error}")

    cdef void learn(self, const tg_batch *batch) noexcept:
        """Where the next run of this size takes place. A run that was held up by others only costs the next one a
        thread, whose run is short again then."""
        if not self.steady:
            return
        if batch.ended - batch.began <= self.engine.short_ns:
            self.short_size = max(self.short_size, GROWTH * (batch.size + 1))
        elif batch.size < self.short_size:
            self.short_size = batch.size // GROWTH

    cdef void finished(self, tg_batch *batch, uint64_t now) noexcept:
        """A run has ended."""
        cdef tg_inference *inference
        cdef uint64_t input = batch.inferring - batch.began
        cdef uint64_t infer = batch.inferred - batch.inferring
        cdef uint64_t output = batch.ended - batch.inferred
        self.running -= 1
        self.engine.running -= 1
        self.engine.touch(self)                   # there is a place
        if batch.status == NULL and batch.problem == NULL:
            self.learn(batch)
            batch_size_ran(&self.sizes, batch.rows, batch.count > 1, batch.ended - batch.began, now)
            if batch.count > 1 and not self.split(batch):
                self.again(batch)
                return
            counters_ran(&self.served.counters, batch.rows, input, infer, output)
        elif batch.count > 1:
            self.again(batch)
            return
        elif (<tg_inference *>batch.members.next.owner).status == 0:
            self.explain(batch, <tg_inference *>batch.members.next.owner)
        while not link_empty(&batch.members):
            inference = <tg_inference *>batch.members.next.owner
            link_remove(&inference.link)
            if inference.status == 0:
                inference.batch = batch
                batch.references += 1
                counters_succeeded(&self.served.counters, inference.rows, now - inference.since,
                                   batch.began - inference.since, input, infer, output)
            self.deliver(inference, now)
        batch_release(batch)

    cdef bint split(self, tg_batch *batch) noexcept:
        """Whether each output of several inferences has their rows."""
        cdef const tg_result *result
        cdef int i
        for i in range(batch.wanted_count):
            result = &batch.results[i]
            if result.rank == 0 or result.shape[0] != batch.rows:
                self.mixed(batch)
                return False
        return True

    cdef object mixed(self, tg_batch *batch):
        cdef int i, axis
        shapes = [
            str([batch.results[i].shape[axis] for axis in range(batch.results[i].rank)])
            for i in range(batch.wanted_count)
        ]
        log.warning(
            "%s: a batch of %d rows gave outputs of shape %s; batching is off from now",
            self.served.model, batch.rows, ", ".join(shapes),
        )
        self.served.max_batch = 1

    cdef void again(self, tg_batch *batch) noexcept:
        """Each member is run alone."""
        cdef tg_inference *inference
        while not link_empty(&batch.members):
            inference = <tg_inference *>batch.members.next.owner
            link_remove(&inference.link)
            inference.alone = True
            if inference.waiter == NULL:
                counters_failed(&self.served.counters, monotonic_ns() - inference.since)
                if inference.sequence != NULL:
                    self.step(inference, False, monotonic_ns())
                inference_free(inference)
            elif queue_push(&self.queue, inference) < 0:
                inference_fail(inference, STATUS_RESOURCE_EXHAUSTED, b"out of memory", 13)
                self.deliver(inference, monotonic_ns())
        batch_release(batch)

    cdef object explain(self, tg_batch *batch, tg_inference *inference):
        """Says to the one member of a batch why it has failed."""
        cdef int status = STATUS_INTERNAL
        cdef bytes text
        if batch.status != NULL:
            if api.GetErrorCode(batch.status) == ORT_INVALID_ARGUMENT:
                status = STATUS_INVALID_ARGUMENT
            said = text_of(batch.status)
            batch.status = NULL
            what = "refuses the input" if status == STATUS_INVALID_ARGUMENT else "failed"
            text = f"{self.served.model} {what}: {said}".encode()
        else:
            text = f"{self.served.model} failed: {batch.problem.decode()}".encode()
        inference_fail(inference, status, PyBytes_AS_STRING(text), len(text))

    cdef void deliver(self, tg_inference *inference, uint64_t now) noexcept:
        cdef Waiter waiter
        if inference.sequence != NULL:
            # What the model itself refuses leaves the state as it was, and the client knows.
            self.step(inference, inference.status in (0, STATUS_INVALID_ARGUMENT, STATUS_INTERNAL), now)
        if inference.status:
            counters_failed(&self.served.counters, now - inference.since)
        inference.state = INFERENCE_DONE
        if inference.waiter == NULL:
            inference_free(inference)
        else:
            waiter = <Waiter>inference.waiter         # held: with its answer it may be let go of
            waiter.answered(inference)


cdef class PythonBatch:

    @property
    def model(self) -> Model:
        return (<ModelQueue>self.batch.queue).served.model

    @property
    def rows(self) -> int:
        return self.batch.rows

    @property
    def since(self) -> int:
        """When the first of its inferences came, as time.monotonic_ns."""
        return (<tg_inference *>self.batch.members.next.owner).since

    @property
    def wanted(self) -> list[int]:
        """The outputs to give, as indices, in order."""
        cdef int i
        return [self.batch.wanted[i] for i in range(self.batch.wanted_count)]

    def members(self) -> list[list[tuple[tuple[int, ...], bytes]]]:
        """For each inference its inputs, in the model's order: shape and raw bytes."""
        cdef tg_link *link = self.batch.members.next
        cdef tg_inference *inference
        cdef int i, axis
        found = []
        while link != &self.batch.members:
            inference = <tg_inference *>link.owner
            found.append([
                (
                    tuple([inference.operands[i].shape[axis] for axis in range(self.batch.model.inputs[i].rank)]),
                    inference.operands[i].data[:inference.operands[i].size],
                )
                for i in range(self.batch.model.input_count)
            ])
            link = link.next
        return found

    def begin(self) -> None:
        """The run begins; on any thread."""
        self.batch.began = self.batch.inferring = self.batch.inferred = monotonic_ns()

    def ran(self, results: list[tuple[tuple[int, ...], bytes]]) -> None:
        """What the wanted outputs are: shape and raw bytes; on any thread. Raises MemoryError."""
        cdef int i
        self.batch.inferred = monotonic_ns()
        for i in range(self.batch.wanted_count):
            self.take(i, results[i][0], results[i][1])
        self.batch.ended = monotonic_ns()

    cdef int take(self, int i, tuple shape, bytes raw) except -1:
        cdef tg_result *result = &self.batch.results[i]
        cdef const tg_spec *spec = &self.batch.model.outputs[self.batch.wanted[i]]
        cdef size_t count = 1, rows, row = 0, index
        cdef uint32_t length
        cdef size_t at = 0
        cdef int axis
        result.rank = len(shape)
        result.shape = <int64_t *>malloc((result.rank + 1) * sizeof(int64_t))
        result.text = <char *>malloc(len(raw) + 1)
        if result.shape == NULL or result.text == NULL:
            raise MemoryError
        for axis in range(result.rank):
            result.shape[axis] = shape[axis]
            count *= <size_t>result.shape[axis]
        memcpy(result.text, PyBytes_AS_STRING(raw), len(raw))
        result.data = result.text
        result.size = len(raw)
        if spec.datatype != DT_BYTES or count == 0:
            return 0
        rows = <size_t>result.shape[0] if result.rank else 1
        result.ends = <size_t *>malloc((rows + 1) * sizeof(size_t))
        if result.ends == NULL:
            raise MemoryError
        for index in range(count):
            memcpy(&length, result.data + at, 4)
            at += 4 + <size_t>length
            if (index + 1) % (count // rows) == 0:
                result.ends[row] = at
                row += 1
        return 0

    def finish(self, problem: str = "", int status = STATUS_INTERNAL) -> None:
        """The run is over, on the loop: with `ran`, or with a problem, whose status of gRPC is `status`."""
        cdef tg_batch *batch = self.batch
        cdef ModelQueue queue = <ModelQueue>batch.queue
        cdef bytes text
        self.batch = NULL
        if not problem:
            queue.finished(batch, monotonic_ns())
            return
        batch.ended = monotonic_ns()
        batch.problem = b"a run failed"
        text = problem.encode()
        if batch.count == 1:
            inference_fail(
                <tg_inference *>batch.members.next.owner, status, PyBytes_AS_STRING(text), len(text))
        queue.finished(batch, batch.ended)
