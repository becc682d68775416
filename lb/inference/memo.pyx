"""A bounded memo of templates.

A set-associative table: a key has one of `WAYS` slots, and of these the one goes that nobody has found since the hand
passed it (second chance). Keys are compared as they stand in the request, and copied only where they are kept. The hash
spreads them and is no defence: who makes keys collide pushes out four templates, as four new requests do.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy
from lb.inference.template cimport Template

cdef enum:
    WAYS = 4


cdef inline uint64_t mix(uint64_t lane, uint64_t word) noexcept nogil:
    lane ^= word
    return (lane << 29 | lane >> 35) * <uint64_t>0x9e3779b97f4a7c15


cdef void finish_key(tg_memo_key *key) noexcept nogil:
    cdef uint64_t a = 1, b = 2, word
    cdef const char *at
    cdef size_t left
    cdef int i
    key.size = 0
    for i in range(key.count):
        at, left = key.parts[i].data, key.parts[i].size
        key.size += left
        a = mix(a, left)
        while left >= 16:                     # two lanes: one would wait for its own multiplication
            memcpy(&word, at, 8)
            a = mix(a, word)
            memcpy(&word, at + 8, 8)
            b = mix(b, word)
            at += 16
            left -= 16
        if left >= 8:
            memcpy(&word, at, 8)
            a = mix(a, word)
            at += 8
            left -= 8
        if left:
            word = 0
            memcpy(&word, at, left)
            b = mix(b, word)
    a = mix(a, b ^ b >> 32)
    key.hash = (a ^ a >> 29) | 1


cdef bytes key_bytes(const tg_memo_key *key):
    cdef bytes made = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>key.size)
    cdef char *at = PyBytes_AS_STRING(made)
    cdef int i
    for i in range(key.count):
        if key.parts[i].size:                 # of one that is empty `data` may be NULL
            memcpy(at, key.parts[i].data, key.parts[i].size)
            at += key.parts[i].size
    return made


cdef bint is_key(const tg_memo_key *key, bytes kept) noexcept:
    cdef const char *at = PyBytes_AS_STRING(kept)
    cdef int i
    if <size_t>PyBytes_GET_SIZE(kept) != key.size:
        return False
    for i in range(key.count):
        if key.parts[i].size and memcmp(at, key.parts[i].data, key.parts[i].size) != 0:
            return False
        at += key.parts[i].size
    return True


@cython.final
cdef class Memo:
    """Holds at most `most` templates, a multiple of 4."""

    def __cinit__(self, Py_ssize_t most):
        if most < WAYS or most % WAYS:
            raise ValueError(f"{most} is no multiple of {WAYS}")
        self.hashes = <uint64_t *>calloc(<size_t>most, sizeof(uint64_t))
        self.used = <unsigned char *>calloc(<size_t>most, 1)
        if self.hashes == NULL or self.used == NULL:
            raise MemoryError
        self.sets = <uint64_t>(most // WAYS)
        self.keys = [None] * most
        self.templates = [None] * most

    def __dealloc__(self):
        free(self.hashes)
        free(self.used)

    cdef Template get(self, const tg_memo_key *key):
        cdef Py_ssize_t at = <Py_ssize_t>((key.hash >> 1) % self.sets * WAYS)
        cdef Py_ssize_t slot
        for slot in range(at, at + WAYS):
            if self.hashes[slot] == key.hash and is_key(key, <bytes>self.keys[slot]):
                self.used[slot] = True
                self.hits += 1
                return <Template>self.templates[slot]
        self.misses += 1
        return None

    cdef int put(self, const tg_memo_key *key, Template template) except -1:
        cdef Py_ssize_t at = <Py_ssize_t>((key.hash >> 1) % self.sets * WAYS)
        cdef Py_ssize_t slot
        cdef bytes kept = key_bytes(key)
        for slot in range(at, at + WAYS):
            if self.hashes[slot] == 0:
                self.size += 1
                break
        else:
            while True:
                self.hand += 1
                slot = at + <Py_ssize_t>(self.hand % WAYS)
                if not self.used[slot]:
                    break
                self.used[slot] = False
        self.hashes[slot] = key.hash
        self.used[slot] = False
        self.keys[slot] = kept
        self.templates[slot] = template
        return 0

    def __len__(self):
        return self.size
