"""A pool in simulated time: requests of a trace, one queue, replicas that start, serve, drain and stop.

The model is exact for one queue in front of equal replicas: each serves up to `concurrency` requests at a time, each
request keeps its place for one service time, the request that came first is served first. A replica is paid for from
the order to start until it has stopped. One seed gives one result.
"""

from libc.math cimport log
from libc.stdint cimport INT64_MAX, int64_t, uint64_t
from libc.stdlib cimport free, realloc

from array import array

cdef enum:
    FIRST_ROOM = 1024

# Streams of random numbers, so that no two uses share one.
cdef uint64_t ARRIVALS = 0x5851F42D4C957F2D
cdef uint64_t SERVICES = 0x14057B7EF767814F


cdef inline uint64_t mixed(uint64_t x) noexcept nogil:
    """The output function of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014)."""
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EB
    return x ^ (x >> 31)


cdef inline double exponential(uint64_t *state) noexcept nogil:
    """A number of the exponential distribution with mean 1."""
    state[0] += <uint64_t>0x9E3779B97F4A7C15
    # The smallest number is 2^-53, whose logarithm is finite.
    return -log((<double>(mixed(state[0]) >> 11) + 1.0) * (1.0 / 9007199254740992.0))


cdef class Arrivals:
    """The times of a trace's requests, one after the other.

    The times within a bin are those of a Poisson process that has as many there: independent and uniform. They depend
    on seed and bin alone, so a second reader of the same trace finds the same times without a list of them.
    """
    cdef const int64_t[:] counts
    cdef int64_t width
    cdef uint64_t seed
    cdef Py_ssize_t bin               # of which `times` are; -1 = none was looked at
    cdef int64_t at                   # index into the bin's times
    cdef bint drawn                   # whether `times` are the bin's
    cdef int64_t *times
    cdef int64_t room

    def __cinit__(self, counts: array[int], int64_t width, uint64_t seed):
        self.counts = counts
        self.width = width
        self.seed = seed
        self.bin = -1
        self.at = 0
        self.drawn = False
        self.times = NULL
        self.room = 0

    def __dealloc__(self):
        free(self.times)

    cdef int64_t next(self) except -1:
        """The time of the next request, INT64_MAX after the last."""
        if not self.drawn or self.at == self.counts[self.bin]:
            if not self.seek():
                return INT64_MAX
            self.draw()
        return self.times[self.at]

    cdef inline int step(self) except -1:
        """Past one request. Its time is drawn only where somebody asks for it."""
        if self.bin < 0 or self.at == self.counts[self.bin]:
            if not self.seek():
                raise IndexError("a trace has no request after its last")
        self.at += 1
        return 0

    cdef bint seek(self) except -1:
        """To the next bin with a request left, if there is one."""
        cdef Py_ssize_t bin = self.bin
        if bin >= 0 and self.at < self.counts[bin]:
            return True
        bin += 1
        while bin < self.counts.shape[0]:
            if self.counts[bin] > 0:
                self.bin = bin
                self.at = 0
                self.drawn = False
                return True
            bin += 1
        return False

    cdef int draw(self) except -1:
        """Sorted uniform times: partial sums of exponential gaps, divided by the sum of all of them and of one more."""
        cdef int64_t count = self.counts[self.bin]
        cdef int64_t begin = self.width * self.bin
        cdef uint64_t state = mixed(self.seed ^ mixed(ARRIVALS + <uint64_t>self.bin))
        cdef double total = 0.0
        cdef double scale
        cdef int64_t i
        cdef void *grown
        if count > self.room:
            grown = realloc(self.times, <size_t>count * sizeof(int64_t))
            if grown == NULL:
                raise MemoryError(f"{count} requests in one bin")
            self.times = <int64_t *>grown
            self.room = count
        cdef double *sums = <double *>self.times    # the same 8 bytes, first as sums and then as times
        for i in range(count):
            total += exponential(&state)
            sums[i] = total
        total += exponential(&state)
        scale = <double>self.width / total
        for i in range(count):
            self.times[i] = begin + <int64_t>(sums[i] * scale)
        self.drawn = True
        return 0


cdef struct tg_served:
    int64_t end                       # ns: when its answer is there
    int64_t begun
    int64_t came


cdef class Ends:
    """The requests that are served now, by the times of their ends: a ring where all take equally long, else a heap."""
    cdef tg_served *requests
    cdef size_t room                  # a power of two
    cdef size_t first
    cdef size_t count
    cdef bint sorted

    def __cinit__(self, bint sorted):
        self.requests = NULL
        self.room = 0
        self.first = 0
        self.count = 0
        self.sorted = sorted

    def __dealloc__(self):
        free(self.requests)

    cdef inline int64_t earliest(self) noexcept:
        return self.requests[self.first].end if self.count else INT64_MAX

    cdef int add(self, tg_served request) except -1:
        cdef size_t child
        cdef size_t parent
        if self.count == self.room:
            self.grow()
        if self.sorted:
            self.requests[(self.first + self.count) & (self.room - 1)] = request
            self.count += 1
            return 0
        child = self.count
        self.count += 1
        while child:
            parent = (child - 1) >> 1
            if self.requests[parent].end <= request.end:
                break
            self.requests[child] = self.requests[parent]
            child = parent
        self.requests[child] = request
        return 0

    cdef int remove(self) except -1:
        """The earliest one ends."""
        cdef size_t parent = 0
        cdef size_t child
        cdef tg_served last
        if not self.count:
            raise IndexError("nothing is served")
        self.count -= 1
        if self.sorted:
            self.first = (self.first + 1) & (self.room - 1)
            return 0
        last = self.requests[self.count]
        while True:
            child = 2 * parent + 1
            if child >= self.count:
                break
            if child + 1 < self.count and self.requests[child + 1].end < self.requests[child].end:
                child += 1
            if last.end <= self.requests[child].end:
                break
            self.requests[parent] = self.requests[child]
            parent = child
        self.requests[parent] = last
        return 0

    cdef int grow(self) except -1:
        cdef size_t room = self.room * 2 if self.room else FIRST_ROOM
        cdef size_t i
        cdef void *grown = realloc(self.requests, room * sizeof(tg_served))
        if grown == NULL:
            raise MemoryError("requests being served")
        self.requests = <tg_served *>grown
        # What stood before the first goes behind the old end, so that the order of the ring is kept.
        for i in range(self.first):
            self.requests[self.room + i] = self.requests[i]
        self.room = room
        return 0


cdef class SimulatedPool:
    """The pool at `now` (ns from the trace's begin). Before the first look `replicas` of them are ready.

    `counts` are requests by bin of `width` ns, `service` and `start` ns; `drawn` says whether service times are of the
    exponential distribution with that mean, or all the same. A request is late when its answer comes more than
    `objective` ns after it.

    Of the time since the last `forget`: `arrived`, `answered`, `late`, `waited` and `served` (ns, sums over the
    answered), `busy`, `waiting` and `paid` (ns times requests in service, requests in the queue, and replicas).
    """
    cdef Arrivals coming              # the next that comes
    cdef Arrivals head                # the one that waits longest
    cdef Ends ends
    cdef readonly int64_t now
    cdef readonly int64_t service
    cdef readonly int64_t start
    cdef readonly int64_t objective
    cdef readonly int64_t concurrency
    cdef bint drawn
    cdef uint64_t random
    cdef readonly int64_t ready
    cdef readonly int64_t starting
    cdef readonly bint started        # whether a start has ended
    cdef readonly int64_t queued
    cdef int64_t draining             # replicas that serve their last requests
    # Starts under way, a ring in the order of their ends: when, how many.
    cdef int64_t *start_ends
    cdef int64_t *start_sizes
    cdef size_t starts_room
    cdef size_t starts_first
    cdef size_t starts_count
    cdef readonly int64_t arrived
    cdef readonly int64_t answered
    cdef readonly int64_t late
    cdef readonly double waited
    cdef readonly double served
    cdef readonly double busy
    cdef readonly double waiting
    cdef readonly double paid

    def __cinit__(self):
        self.start_ends = NULL
        self.start_sizes = NULL

    def __init__(
        self, counts: array[int], int64_t width, int64_t service, int64_t concurrency, int64_t start,
        int64_t objective, int64_t replicas, uint64_t seed, bint drawn=False,
    ) -> None:
        if width < 1 or service < 1 or concurrency < 1 or start < 0 or objective < 0 or replicas < 0:
            raise ValueError("a pool needs times and numbers that are not negative, and a service time")
        self.coming = Arrivals(counts, width, seed)
        self.head = Arrivals(counts, width, seed)
        self.ends = Ends(not drawn)
        self.service = service
        self.concurrency = concurrency
        self.start = start
        self.objective = objective
        self.drawn = drawn
        self.random = mixed(seed ^ SERVICES)
        self.ready = replicas

    def __dealloc__(self):
        free(self.start_ends)
        free(self.start_sizes)

    @property
    def wanted(self) -> int:
        """Replicas that are ready or start."""
        return self.ready + self.starting

    @property
    def in_service(self) -> int:
        """Requests at replicas."""
        return self.ends.count

    @property
    def next_arrival(self) -> int:
        """When the next request comes, ns; INT64_MAX after the last."""
        return self.coming.next()

    def forget(self) -> None:
        """The sums begin anew."""
        self.arrived = self.answered = self.late = 0
        self.waited = self.served = self.busy = self.waiting = self.paid = 0.0

    def scale_to(self, int64_t replicas) -> None:
        """Want so many from now on. The newest go first: those that start are given up, others finish first."""
        cdef int64_t more = replicas - self.ready - self.starting
        cdef size_t last
        cdef int64_t given_up
        if replicas < 0:
            raise ValueError(f"a pool cannot have {replicas} replicas")
        if more > 0:
            if self.start == 0:
                self.started = True
                self.ready += more
            else:
                self.begin(more)
        while more < 0 and self.starting:
            last = (self.starts_first + self.starts_count - 1) & (self.starts_room - 1)
            given_up = min(-more, self.start_sizes[last])
            self.start_sizes[last] -= given_up
            self.starting -= given_up
            more += given_up
            if self.start_sizes[last] == 0:
                self.starts_count -= 1
        if more < 0:
            self.ready += more
        self.settle()
        self.fill()

    def advance(self, int64_t until) -> None:
        """Everything that happens up to and including `until`."""
        self.run(until)
        self.pass_time(until)

    def finish(self) -> None:
        """Everything that happens later, with the replicas there are. Who is not served is late."""
        self.run(INT64_MAX - 1)
        self.late += self.queued
        self.queued = 0

    cdef int run(self, int64_t until) except -1:
        cdef int64_t comes
        cdef int64_t ends
        cdef int64_t starts
        while True:
            comes = self.coming.next()
            ends = self.ends.earliest()
            starts = self.start_ends[self.starts_first] if self.starts_count else INT64_MAX
            if min(comes, ends, starts) > until:
                break
            if ends <= comes and ends <= starts:
                self.pass_time(ends)
                self.answer(&self.ends.requests[self.ends.first])
                self.ends.remove()
                if self.draining:
                    self.settle()
                if self.queued:
                    self.fill()
            elif starts <= comes:
                self.pass_time(starts)
                self.started = True
                self.ready += self.start_sizes[self.starts_first]
                self.starting -= self.start_sizes[self.starts_first]
                self.starts_first = (self.starts_first + 1) & (self.starts_room - 1)
                self.starts_count -= 1
                self.settle()
                self.fill()
            else:
                self.pass_time(comes)
                self.coming.step()
                self.arrived += 1
                if not self.queued and <int64_t>self.ends.count < self.ready * self.concurrency:
                    self.head.step()
                    self.serve(comes)
                else:
                    self.queued += 1
        return 0

    cdef inline int pass_time(self, int64_t now) except -1:
        cdef int64_t passed = now - self.now
        if passed < 0:
            raise ValueError("time does not go back")
        self.busy += <double>passed * <double>self.ends.count
        self.waiting += <double>passed * <double>self.queued
        self.paid += <double>passed * <double>(self.ready + self.starting + self.draining)
        self.now = now
        return 0

    cdef inline int settle(self) except -1:
        """Requests that exceed the places of the ready replicas are at those that drain."""
        cdef int64_t over = <int64_t>self.ends.count - self.ready * self.concurrency
        self.draining = (over + self.concurrency - 1) // self.concurrency if over > 0 else 0
        return 0

    cdef int fill(self) except -1:
        """Those that wait go to free places."""
        cdef int64_t came
        while self.queued and <int64_t>self.ends.count < self.ready * self.concurrency:
            came = self.head.next()
            self.head.step()
            self.queued -= 1
            self.serve(came)
        return 0

    cdef int serve(self, int64_t came) except -1:
        """A request that came then is served from now on."""
        cdef tg_served request
        cdef int64_t takes = self.service
        if self.drawn:
            takes = 1 + <int64_t>(exponential(&self.random) * <double>self.service)
        request.came = came
        request.begun = self.now
        request.end = self.now + takes
        return self.ends.add(request)

    cdef inline int answer(self, const tg_served *request) except -1:
        self.answered += 1
        self.waited += <double>(request.begun - request.came)
        self.served += <double>(request.end - request.begun)
        if request.end - request.came > self.objective:
            self.late += 1
        return 0

    cdef int begin(self, int64_t count) except -1:
        cdef size_t last
        if self.starts_count == self.starts_room:
            self.grow_starts()
        last = (self.starts_first + self.starts_count) & (self.starts_room - 1)
        self.start_ends[last] = self.now + self.start
        self.start_sizes[last] = count
        self.starts_count += 1
        self.starting += count
        return 0

    cdef int grow_starts(self) except -1:
        cdef size_t room = self.starts_room * 2 if self.starts_room else FIRST_ROOM
        cdef size_t i
        cdef void *ends = realloc(self.start_ends, room * sizeof(int64_t))
        if ends == NULL:
            raise MemoryError("replicas that start")
        self.start_ends = <int64_t *>ends
        cdef void *sizes = realloc(self.start_sizes, room * sizeof(int64_t))
        if sizes == NULL:
            raise MemoryError("replicas that start")
        self.start_sizes = <int64_t *>sizes
        for i in range(self.starts_first):
            self.start_ends[self.starts_room + i] = self.start_ends[i]
            self.start_sizes[self.starts_room + i] = self.start_sizes[i]
        self.starts_room = room
        return 0
