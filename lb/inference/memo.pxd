"""A bounded memo of templates."""

from libc.stdint cimport uint64_t
from lb.http.grpc.protobuf cimport span
from lb.inference.template cimport Template

cdef enum:
    MEMO_PARTS = 5


# The bytes of `parts`, one behind the other. Whoever makes the key sees to it that other parts give other bytes.
cdef struct tg_memo_key:
    span[MEMO_PARTS] parts
    int count
    size_t size                       # sum of the parts
    uint64_t hash                     # not 0; see `finish_key`


# Sets `size` and `hash` of a key whose parts are complete.
cdef void finish_key(tg_memo_key *key) noexcept nogil
# The parts, joined.
cdef bytes key_bytes(const tg_memo_key *key)


cdef class Memo:
    cdef list keys                    # bytes, or None
    cdef list templates
    cdef uint64_t *hashes             # 0: the slot is free
    cdef unsigned char *used          # found since it was last looked at for a place
    cdef uint64_t sets
    cdef unsigned int hand
    cdef Py_ssize_t size
    cdef readonly uint64_t hits, misses

    # None when it is not there.
    cdef Template get(self, const tg_memo_key *key)
    # Takes the place of one that was not found lately, if need be.
    cdef int put(self, const tg_memo_key *key, Template template) except -1
