"""Connection ids of QUIC packets: see quic.h for the contract."""

from libc.stdint cimport uint64_t


cdef extern from "quic.h" nogil:
    # enum tg_quic_form
    enum:
        TG_QUIC_NONE
        TG_QUIC_SHORT
        TG_QUIC_LONG
        TG_QUIC_FIRST
        TG_QUIC_OTHER
    ctypedef struct tg_quic_ids:
        const unsigned char *destination
        const unsigned char *source
        size_t destination_length
        size_t source_length

    int tg_quic_read(const unsigned char *data, size_t size, tg_quic_ids *ids) noexcept
    uint64_t tg_quic_number(const unsigned char *data, size_t length) noexcept
