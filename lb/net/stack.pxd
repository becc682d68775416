"""A list that keeps its room: what a Python list frees when it gets short, it needs again for the next request."""

cimport cython


@cython.final
cdef class Stack:
    """`count` objects, in `items` from the first on; None stands behind them."""
    cdef list items
    cdef readonly Py_ssize_t count

    cdef void push(self, object one) noexcept
    # The last one, which leaves. There must be one.
    cdef object pop(self)
    # Takes `one` out, if it is there; the others keep their order.
    cdef void remove(self, object one) noexcept
    cdef void clear(self) noexcept
