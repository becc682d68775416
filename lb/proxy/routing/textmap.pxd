"""An immutable map from byte strings to small numbers, for look-ups that allocate nothing."""

from libc.stdint cimport int32_t, uint32_t, uint64_t


cdef struct tg_text_slot:
    uint64_t hash
    uint32_t start                    # of the key in `text`
    uint32_t length
    int32_t value                     # -1 = the slot is empty


cdef enum:
    TEXT_ABSENT = -1

# FNV-1a (draft-eastlake-fnv). It can be carried on byte by byte, so that one pass over a path gives the hashes of all
# its prefixes. It needs no key: the keys of a map come from the configuration, so no client can make them collide.
cdef uint64_t TEXT_HASH_START


cdef inline uint64_t text_hash(uint64_t hash, const char *text, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        hash = (hash ^ <unsigned char>text[i]) * 0x100000001B3ULL
    return hash


cdef class TextMap:
    cdef tg_text_slot *slots
    cdef size_t mask                  # number of slots, a power of two, less one
    cdef char *text                   # all keys, one behind the other
    cdef readonly Py_ssize_t size

    # The value of `text`, or TEXT_ABSENT.
    cdef int find(self, const char *text, size_t n) noexcept nogil
    # The same where its hash is known already.
    cdef int probe(self, uint64_t hash, const char *text, size_t n) noexcept nogil
