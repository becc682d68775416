"""Requests that wait for another worker's answer: see elsewhere.pxd.

Who waits looks for the answer in the store when the flight is over, as a new request does. So nothing here can make an
answer wrong: in doubt an endpoint is asked once more.
"""

from lb.cache.shared_flights cimport (
    FLIGHT_FOLLOWS, FLIGHT_GOES_ON, FLIGHT_LEADS, FLIGHT_UNSHARED, LOOK_NS, SharedFlights,
)
from lb.cache.store cimport ResultCache
from lb.net.poller cimport NEVER, Poller
from lb.net.wakeups cimport Wakeups


cdef class Awaiting(BodySource):

    cdef void go_on(self, bint alone) noexcept:
        pass


cdef class Elsewhere(Source):

    def __init__(self, Poller poller not None, ResultCache cache not None, Wakeups wakeups not None):
        self.poller = poller
        self.shared = SharedFlights(cache, wakeups)
        self.awaiting = {}
        wakeups.wakes.add(self)

    def in_flight(self):
        """Number of flights that this worker leads, and of those that it follows."""
        return len(self.shared.led), len(self.awaiting)

    cdef int join(self, bytes name) noexcept:
        cdef int part
        if name in self.awaiting:
            return FOLLOWS
        part = self.shared.join(name, self.poller.now)
        if self.deadline == NEVER:
            self.poller.arm(self, self.poller.now + LOOK_NS)
        return LEADS if part == FLIGHT_LEADS else FOLLOWS if part == FLIGHT_FOLLOWS else ALONE

    cdef void wait(self, bytes name, Awaiting request) noexcept:
        request.elsewhere = self
        request.name = name
        self.awaiting.setdefault(name, {})[request] = None

    cdef void leave(self, Awaiting request) noexcept:
        cdef dict others = self.awaiting.get(request.name)
        request.elsewhere = None
        if others is None:
            return
        others.pop(request, None)
        if not others:
            del self.awaiting[request.name]
            self.shared.forget(request.name)

    cdef int claim(self, bytes name) noexcept:
        cdef int part = self.join(name)
        if part == FOLLOWS and name not in self.awaiting:
            self.shared.forget(name)
        return part

    cdef bint awaited(self, bytes name) noexcept:
        return self.shared.awaited(name)

    cdef void end(self, bytes name, bint shared) noexcept:
        self.shared.end(name, shared)

    cdef void on_flush(self) noexcept:
        """A wakeup has come: a flight that this worker follows may be over."""
        cdef bytes name
        cdef int state
        for name in list(self.awaiting):
            if name not in self.awaiting:     # who went on has ended it, too
                continue
            state = self.shared.look(name, self.poller.now)
            if state != FLIGHT_GOES_ON:
                self.landed(name, state == FLIGHT_UNSHARED)

    cdef void on_timer(self) noexcept:
        if self.shared.led:
            self.shared.renew(self.poller.now)
        self.on_flush()
        if (self.shared.led or self.awaiting) and self.deadline == NEVER:
            self.poller.arm(self, self.poller.now + LOOK_NS)

    cdef void landed(self, bytes name, bint alone) noexcept:
        cdef Awaiting request
        self.shared.forget(name)
        for request in list(self.awaiting.pop(name)):
            if request.elsewhere is self:     # a request before it has not made it leave
                request.elsewhere = None
                request.go_on(alone)
