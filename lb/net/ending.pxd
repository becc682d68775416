"""The end of objects that come and go with every request, without `__dealloc__`.

Cython puts exceptions aside around each `__dealloc__`, which costs more than the rest of an object's end. What ends a
type by `end_by` cannot raise, and needs none of that.
"""

from cpython.object cimport PyTypeObject


cdef extern from *:
    """
    #ifndef TIDEGATE_ENDING
    #define TIDEGATE_ENDING
    /* Of the one type of a module that ends in this way. */
    static void (*tg_ending)(void *);
    static destructor tg_ending_rest;

    static void tg_end(PyObject *self) {
        tg_ending(self);
        tg_ending_rest(self);
    }

    static void tg_end_by(PyTypeObject *type, void (*end)(void *)) {
        tg_ending = end;
        tg_ending_rest = type->tp_dealloc;
        type->tp_dealloc = tg_end;
    }
    #endif
    """
    # `end` is called with an object of `type` before the rest of its end. Its fields are there; nobody refers to it,
    # and `end` may not either. Classes of the same module that are derived from `type` do not call `end`.
    void tg_end_by(PyTypeObject *type, void (*end)(void *) noexcept) noexcept
