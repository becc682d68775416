"""A list that keeps its room: see stack.pxd."""

cimport cython


@cython.final
cdef class Stack:

    def __cinit__(self):
        self.items = []

    cdef void push(self, object one) noexcept:
        if self.count < len(self.items):
            self.items[self.count] = one
        else:
            self.items.append(one)
        self.count += 1

    cdef object pop(self):
        cdef object one
        self.count -= 1
        one = self.items[self.count]
        self.items[self.count] = None
        return one

    cdef void remove(self, object one) noexcept:
        cdef Py_ssize_t i = 0
        while i < self.count and self.items[i] is not one:
            i += 1
        if i == self.count:
            return
        self.count -= 1
        while i < self.count:
            self.items[i] = self.items[i + 1]
            i += 1
        self.items[i] = None

    cdef void clear(self) noexcept:
        while self.count:
            self.count -= 1
            self.items[self.count] = None
