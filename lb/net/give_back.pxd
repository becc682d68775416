"""Memory that will not be read again, given back to the system before its block is freed (give_back.h)."""


cdef extern from "give_back.h" nogil:
    void tg_give_back(const char *data, size_t n) noexcept
