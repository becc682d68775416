"""The service-time model of one server, for the emulator and for bench.simulate."""

from libc.stdint cimport int64_t


cdef enum job_state:
    JOB_QUEUED = 0
    JOB_RUNNING
    JOB_DONE
    JOB_GONE


cdef class Job:
    cdef public int64_t arrived
    cdef public int64_t work
    cdef public int items
    cdef public int state             # JOB_…


cdef class Run:
    """An execution: `left` is the work that was left at `since`."""
    cdef list jobs
    cdef int64_t number
    cdef int64_t began
    cdef int64_t since
    cdef double left
    cdef int64_t finish


cdef class Executor:
    cdef readonly int64_t due
    cdef readonly Py_ssize_t peak
    cdef readonly Py_ssize_t waiting
    cdef object queue                 # a deque; jobs that are JOB_GONE are passed over
    cdef list running                 # Runs, the one that is finished first at the end
    cdef int64_t numbers              # executions so far
    cdef int64_t wake
    cdef int64_t busy_ns
    cdef object timeline
    cdef bint flat                    # its speed never changes
    cdef object random
    cdef object draw
    cdef int64_t max_queue
    cdef Py_ssize_t slots
    cdef Py_ssize_t max_batch
    cdef int64_t max_wait
    cdef bint batches
    cdef int64_t fixed
    cdef int64_t each

    cdef int take(self, execution, max_queue) except -1
    cdef int begin(self, list jobs, int64_t now) except -1
    cdef int start(self, int64_t now) except -1
    cpdef bint arrive(self, Job job, int64_t now) except -1
    cpdef int cancel(self, Job job, int64_t now) except -1
    # `advance` for compiled callers.
    cdef list finished(self, int64_t now)
