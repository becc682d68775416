"""What is owed to endpoints: see deferred_release.pxd."""

from libc.stdint cimport uint64_t
from lb.net.poller cimport NEVER, Poller, Source, Timed, monotonic_ns

cdef enum:
    LONGEST_NS = 1_000_000_000


cdef class Debt(Timed):

    cdef void give(self, uint64_t now) noexcept:
        pass

    cdef void pay(self, uint64_t now) noexcept:
        if not self.paid:
            self.paid = True
            self.deadline = NEVER
            self.give(now)

    cdef void on_timer(self) noexcept:
        self.pay(monotonic_ns())


cdef class Debts:

    def __init__(self, Poller poller not None):
        self.poller = poller
        self.owed = []
        self.asked = 1

    cdef int add(self, Debt debt) noexcept:
        # Those whose time was over before they were acknowledged are the first.
        while len(self.owed) > self.unasked and (<Debt>self.owed[0]).paid:
            del self.owed[0]
        try:
            self.owed.append(debt)
        except MemoryError:
            return -1
        self.unasked += 1
        self.poller.arm(debt, self.poller.now + LONGEST_NS)
        return 0

    cdef void ask(self) noexcept:
        cdef Py_ssize_t i
        self.asked += 1
        for i in range(len(self.owed) - self.unasked, len(self.owed)):
            (<Debt>self.owed[i]).number = self.asked
        self.unasked = 0

    cdef void acknowledge(self) noexcept:
        cdef Py_ssize_t count = 0
        self.acknowledged += 1
        while count < len(self.owed) - self.unasked and (<Debt>self.owed[count]).number <= self.acknowledged:
            count += 1
        if count:
            self.settle(count)

    cdef void pay_all(self) noexcept:
        self.unasked = 0
        self.settle(len(self.owed))

    cdef void settle(self, Py_ssize_t count) noexcept:
        """The first `count`. Who is told of it may add others."""
        cdef list paid = self.owed[:count]
        cdef Debt debt
        del self.owed[:count]
        for debt in paid:
            debt.pay(self.poller.now)


cdef class DeferringChannel(Source):

    cdef int owe(self, Debt debt) noexcept:
        return -1
