/* CRC-32C (Castagnoli polynomial, reflected 0x82F63B78; RFC 4960 appendix B), four bits at a time: what is summed is
 * a few dozen bytes once per connection, and 64 bytes of table stay in the cache where a faster table would not. */
#ifndef TIDEGATE_CRC32C_H
#define TIDEGATE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Goes on from `crc`: start with 0xffffffff, and complement the last result. */
static inline uint32_t tg_crc32c(uint32_t crc, const unsigned char *data, size_t n) {
    static const uint32_t table[16] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
        0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};
    for (size_t i = 0; i < n; i++) {
        crc ^= data[i];
        crc = (crc >> 4) ^ table[crc & 15u];
        crc = (crc >> 4) ^ table[crc & 15u];
    }
    return crc;
}

#endif
