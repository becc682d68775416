"""An immutable map from byte strings to small numbers: open addressing, half empty, built once."""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

TEXT_HASH_START = 0xCBF29CE484222325ULL


cdef inline size_t place(uint64_t hash) noexcept nogil:
    # The low bits of FNV-1a depend on the low bits of the input alone: fold the upper half in.
    return <size_t>(hash ^ (hash >> 32))


cdef class TextMap:
    """`items` maps bytes to numbers from 0. Raises ValueError for a negative number, MemoryError."""

    def __init__(self, dict items):
        cdef size_t slots = 4, at
        cdef size_t total = 0
        cdef uint64_t hash
        cdef bytes key
        if self.slots != NULL:
            raise ValueError("a TextMap is made once")
        while slots < 2 * <size_t>len(items):
            slots *= 2
        for key in items:
            total += <size_t>len(key)
        if total > 0xFFFFFFFF:
            raise MemoryError
        self.slots = <tg_text_slot *>malloc(slots * sizeof(tg_text_slot))
        self.text = <char *>malloc(total + 1)
        if self.slots == NULL or self.text == NULL:
            raise MemoryError
        self.mask = slots - 1
        for at in range(slots):
            self.slots[at].value = TEXT_ABSENT
        total = 0
        for key, value in items.items():
            if value < 0:
                raise ValueError(f"a TextMap has no room for {value}")
            memcpy(self.text + total, <const char *>key, <size_t>len(key))
            hash = text_hash(TEXT_HASH_START, <const char *>key, <size_t>len(key))
            at = place(hash) & self.mask
            while self.slots[at].value != TEXT_ABSENT:
                at = (at + 1) & self.mask
            self.slots[at].hash = hash
            self.slots[at].start = <uint32_t>total
            self.slots[at].length = <uint32_t>len(key)
            self.slots[at].value = <int32_t>value
            total += <size_t>len(key)
        self.size = len(items)

    def __dealloc__(self):
        free(self.slots)
        free(self.text)

    def __len__(self):
        return self.size

    cdef int find(self, const char *text, size_t n) noexcept nogil:
        if self.size == 0:
            return TEXT_ABSENT
        return self.probe(text_hash(TEXT_HASH_START, text, n), text, n)

    cdef int probe(self, uint64_t hash, const char *text, size_t n) noexcept nogil:
        cdef const tg_text_slot *slot
        cdef size_t at = place(hash) & self.mask
        while True:
            slot = &self.slots[at]
            if slot.value == TEXT_ABSENT:
                return TEXT_ABSENT
            if slot.hash == hash and slot.length == n and memcmp(self.text + slot.start, text, n) == 0:
                return slot.value
            at = (at + 1) & self.mask
