"""The service-time model of one server: a queue and what executes from it, as a function of time given from outside.

It does no I/O and reads no clock. Each change happens at the moment it is due, however late `advance` is called, so
that a late wake-up delays one answer and not all that follow it.
"""

from collections import deque

from libc.math cimport ceil
from libc.stdint cimport int64_t

from bench.emulator.distributions import drawing, ns
from bench.emulator.spec import Batched, Instant, Parallel, Serial
from bench.emulator.timeline import NEVER as _NEVER

QUEUED, RUNNING, DONE, GONE = JOB_QUEUED, JOB_RUNNING, JOB_DONE, JOB_GONE

cdef int64_t NEVER = _NEVER
cdef int64_t UNLIMITED = <int64_t>1 << 60


cdef class Job:
    """One request in the model: where it stands, when it arrived (ns), its items, and its work (ns at full speed)."""

    def __cinit__(self):
        self.items = 1
        self.state = JOB_DONE


def no_work():
    """The time of a request that is answered at once."""
    return 0


cdef class Run:

    def __init__(self, list jobs, int64_t number, int64_t now, double work, int64_t finish):
        self.jobs = jobs
        self.number = number
        self.began = now
        self.since = now
        self.left = work
        self.finish = finish


cdef class Executor:
    """Queue, batcher and execution slots of one server.

    Times are ns and never go back; callers call `advance(now)` before they tell of anything at `now`. `due` is when
    something happens next by itself (NEVER: nothing will). `waiting` requests wait; `peak` is the most that did.
    """

    def __init__(self, execution: Any, timeline: Any, random: Any, max_queue: int | None = None) -> None:
        """Raises BenchError if an empirical file is unusable."""
        self.due = NEVER
        self.wake = NEVER
        self.queue = deque()
        self.running = []
        self.timeline = timeline
        self.flat = timeline.flat
        self.random = random
        self.take(execution, max_queue)

    def __repr__(self):
        return f"<Executor waiting={self.waiting} running={len(self.running)} due={self.due}>"

    cdef int take(self, execution, max_queue) except -1:
        # First what can fail, so that a failed change leaves all as it was.
        draw = drawing(execution.time, self.random) if isinstance(execution, (Serial, Parallel)) else no_work
        self.draw = draw
        self.max_queue = UNLIMITED if max_queue is None else max_queue
        self.slots, self.max_batch, self.max_wait = 1, 1, 0
        self.batches = isinstance(execution, Batched)
        if isinstance(execution, Instant):
            self.slots = UNLIMITED
        elif isinstance(execution, Parallel):
            self.slots = execution.slots
        elif self.batches:
            self.fixed, self.each = ns(execution.fixed_ms), ns(execution.per_item_ms)
            self.max_batch, self.max_wait = execution.max_batch, ns(execution.max_wait_ms)
        return 0

    @property
    def executing(self) -> int:
        """Executions that are under way, those of cancelled requests too."""
        return len(self.running)

    def in_flight(self) -> int:
        """Requests that wait or are executed and were not cancelled."""
        return self.waiting + sum((<Job>job).state == JOB_RUNNING for run in self.running for job in (<Run>run).jobs)

    def busy(self, int64_t now) -> int:
        """Execution time so far in ns, summed over the slots; stalls and slowness within an execution count."""
        return self.busy_ns + sum(now - (<Run>run).began for run in self.running)

    cpdef bint arrive(self, Job job, int64_t now) except -1:
        """Takes a request; False if the queue is full. What it finishes at once is in the next `advance(now)`."""
        # Drawn on arrival and not at the start: cancelled requests and batching must not shift who gets which time.
        job.arrived = now
        job.work = self.draw() * job.items
        job.state = JOB_QUEUED
        self.queue.append(job)
        self.waiting += 1
        self.start(now)
        if self.waiting > self.max_queue:
            self.queue.pop()
            self.waiting -= 1
            job.state = JOB_GONE
            self.start(now)
            return False
        self.peak = max(self.peak, self.waiting)
        return True

    cpdef int cancel(self, Job job, int64_t now) except -1:
        """The client has gone: a waiting request leaves the queue, a running execution goes on for nobody."""
        cdef int before = job.state
        if before != JOB_DONE:
            job.state = JOB_GONE
        if before == JOB_QUEUED:
            self.waiting -= 1
            self.start(now)
        return 0

    def advance(self, int64_t now) -> list[Any]:
        """Does everything that is due up to `now`; the requests that are finished, in order of their finish."""
        return self.finished(now)

    cdef list finished(self, int64_t now):
        cdef list done = []
        cdef int64_t at
        cdef Run run
        cdef Job job
        while self.due <= now:
            at = self.due
            while self.running and (<Run>self.running[len(self.running) - 1]).finish <= at:
                run = <Run>self.running.pop()
                self.busy_ns += at - run.began
                for job in run.jobs:
                    if job.state == JOB_RUNNING:
                        job.state = JOB_DONE
                        done.append(job)
            self.start(at)
        return done

    def change(self, int64_t now, timeline: Any, execution: Any = None, max_queue: int | None = None) -> None:
        """From `now` on another speed and, if given, another execution with its queue limit.

        What is under way keeps the work that is left of it; what waits keeps its place and the work that it is (unless
        it now joins a batch). Raises BenchError if an empirical file is unusable; then nothing has changed.
        """
        cdef Run run
        if execution is not None:
            self.take(execution, max_queue)
        for run in self.running:
            run.left = max(0.0, run.left - <double>self.timeline.progress(run.since, now))
            run.since = now
            run.finish = timeline.finish(now, run.left)
        self.running.sort(key=place_of, reverse=True)
        self.timeline = timeline
        self.flat = timeline.flat
        self.start(now)

    def forget_peak(self) -> None:
        """The longest queue is looked for anew."""
        self.peak = self.waiting

    cdef int begin(self, list jobs, int64_t now) except -1:
        """One more execution, behind those that finish at the same moment."""
        cdef double work
        cdef int64_t finish
        cdef Py_ssize_t low = 0, high = len(self.running), middle
        if self.batches:
            work = <double>(self.fixed + self.each * len(jobs))
        else:
            work = <double>(<Job>jobs[0]).work
        finish = now + <int64_t>ceil(work) if self.flat else <int64_t>self.timeline.finish(now, work)
        while low < high:
            middle = (low + high) // 2
            if (<Run>self.running[middle]).finish > finish:
                low = middle + 1
            else:
                high = middle
        self.running.insert(low, Run(jobs, self.numbers, now, work, finish))
        self.numbers += 1
        return 0

    cdef int start(self, int64_t now) except -1:
        """Starts what can start at `now` and works out when to look again."""
        cdef int64_t clear
        cdef Job job
        cdef list jobs
        self.wake = NEVER
        while self.waiting and len(self.running) < self.slots:
            while (<Job>self.queue[0]).state == JOB_GONE:
                self.queue.popleft()
            if not self.flat:
                clear = self.timeline.clear(now)
                if clear > now:
                    self.wake = clear
                    break
            if self.waiting < self.max_batch and (<Job>self.queue[0]).arrived + self.max_wait > now:
                self.wake = (<Job>self.queue[0]).arrived + self.max_wait
                break
            jobs = []
            while self.waiting and len(jobs) < self.max_batch:
                job = <Job>self.queue.popleft()
                if job.state == JOB_GONE:
                    continue
                self.waiting -= 1
                job.state = JOB_RUNNING
                jobs.append(job)
            self.begin(jobs, now)
        if not self.waiting:
            self.queue.clear()
        self.due = self.wake
        if self.running:
            self.due = min((<Run>self.running[len(self.running) - 1]).finish, self.wake)
        return 0


def place_of(Run run not None):
    """Of those that finish together the one that began first goes first."""
    return run.finish, run.number
