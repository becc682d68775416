"""What is known of who a request is from: see known.pxd."""

from libc.stdint cimport UINT64_MAX, uint64_t

cdef enum:
    OBJECT = 128                      # what a decision and a field of it take besides their text, about


cdef Known known(access state, bytes identity=b"", uint64_t until=UINT64_MAX):
    cdef Known made = Known.__new__(Known)
    made.state = state
    made.identity = identity
    made.until = until
    return made


NONE = known(ACCESS_NONE)
BAD = known(ACCESS_BAD)
FORBIDDEN = known(ACCESS_FORBIDDEN)
UNAVAILABLE = known(ACCESS_UNAVAILABLE)
LET_THROUGH = known(ACCESS_GRANTED)


cdef class Decision(Known):

    def __cinit__(self):
        self.identity = self.lines = self.body = b""
        self.removed = self.fields = ()

    cdef size_t size(self) noexcept:
        cdef size_t size = OBJECT + <size_t>(len(self.identity) + len(self.lines) + len(self.body))
        cdef object one
        for one in self.removed:
            size += <size_t>len(<bytes>one)
        for one in self.fields:
            size += OBJECT + <size_t>(len(<bytes>(<tuple>one)[0]) + len(<bytes>(<tuple>one)[1]))
        return size
