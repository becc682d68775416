"""Objects that come and go with every request (reuse.h)."""

from cpython.object cimport PyTypeObject


cdef extern from "reuse.h":
    void tg_reuse(PyTypeObject *type) noexcept
