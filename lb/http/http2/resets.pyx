"""Streams that are reset further on in the input: see resets.pxd."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    PREFACE = 24
    HEADER = 9
    RST_STREAM = 3
    PLACES = 8192                     # a client's streams are odd and ascend: of so many none displaces another

# Of the whole worker, since a look is forgotten before the next. `look << 32 | stream`.
cdef uint64_t seen[PLACES]
cdef uint64_t look = 0
cdef uint64_t looked = 0              # bytes


cdef void frames_begin(tg_frames *frames) noexcept:
    frames.skip = PREFACE
    frames.have = 0


cdef bint frames_look(tg_frames *frames, const char *data, size_t size) noexcept:
    global look, looked
    cdef const uint8_t *next = <const uint8_t *>data
    cdef const uint8_t *end = next + size
    cdef const uint8_t *header
    cdef size_t n
    cdef uint32_t stream
    cdef bint found = False
    looked += size
    while next < end:
        if frames.skip:
            n = min(<size_t>frames.skip, <size_t>(end - next))
            frames.skip -= n
            next += n
            continue
        header = next
        n = min(<size_t>(HEADER - frames.have), <size_t>(end - next))
        next += n
        if n < HEADER:
            memcpy(frames.header + frames.have, header, n)
            frames.have += <uint8_t>n
            if frames.have < HEADER:
                break
            frames.have = 0
            header = frames.header
        frames.skip = <uint64_t>header[0] << 16 | <uint64_t>header[1] << 8 | header[2]
        if header[3] == RST_STREAM:
            if not found:
                found = True
                look += 1
            stream = (<uint32_t>header[5] << 24 | <uint32_t>header[6] << 16 | <uint32_t>header[7] << 8 | header[8])
            stream &= 0x7FFFFFFF
            seen[(stream >> 1) % PLACES] = look << 32 | stream
    return found


cdef uint64_t frames_looked() noexcept:
    return looked


cdef bint reset_ahead(uint32_t stream) noexcept:
    return seen[(stream >> 1) % PLACES] == (look << 32 | stream)
