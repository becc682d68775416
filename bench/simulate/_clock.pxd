"""Time that is simulated: an agenda of what happens when, and what of a worker goes by time, going by it."""

from libc.stdint cimport uint64_t
from lb.net.poller cimport Poller
from lb.net.timers cimport Timers
from lb.net.wakeups cimport Wakeups


cdef enum happening:
    CALL_DUE = 0                      # a Callback of a SimulatedLoop
    TIMERS_DUE                        # SimulatedTimers
    WAKEUP_COMES                      # to SimulatedWakeups
    # The next are those of bench.simulate._engine.
    REQUEST_COMES                     # the next of the schedule is sent
    REQUEST_ARRIVES                   # a Request is with its worker
    CLIENT_LEAVES                     # a Request's client
    CALL_ARRIVES                      # a Call is with its server
    CALL_CANCELLED                    # a Call's server hears that nobody waits for it
    ANSWER_ARRIVES                    # a Call's answer is with its worker
    SERVER_DUE                        # a Server finishes something
    PROBE_ARRIVES                     # a SimulatedProbe is with its server
    PROBE_ANSWERED


cdef struct tg_happening:
    uint64_t at
    uint64_t number                   # of those at one moment the first that was asked for comes first
    int what                          # enum happening
    void *who                         # a reference to the object


cdef class Agenda:
    cdef uint64_t now                 # ns; never goes back
    cdef tg_happening *heap
    cdef size_t count
    cdef size_t room
    cdef uint64_t numbers

    # `what` happens to `who` at `at`. Raises MemoryError.
    cdef int add(self, uint64_t at, int what, object who) except -1
    # What comes next: `now` becomes its moment. None: nothing is left, or nothing before `end`.
    cdef object take(self, uint64_t end, int *what)
    # Nothing happens any more. The collector does not see what the agenda holds: without this it would stay.
    cdef void clear(self) noexcept


cdef class Callback:
    cdef object function              # None: it was cancelled


cdef class SimulatedLoop:
    cdef Agenda agenda


cdef class SimulatedPoller(Poller):
    cdef Agenda agenda

    # Between the two is a batch of events; `end_batch` is what their end is to a poller that reads sockets.
    cdef void begin_batch(self) noexcept
    cdef void end_batch(self) noexcept


cdef class SimulatedTimers(Timers):
    cdef Agenda agenda

    # The moment has come that was asked for last.
    cdef void ring_now(self) noexcept


cdef class SimulatedWakeups(Wakeups):
    cdef Agenda agenda
    cdef uint64_t delay               # ns from the ring to its worker's look
    cdef list all                     # those of the daemon's workers, in their order
    cdef bint rung                    # it rings already

    cdef void come(self) noexcept
