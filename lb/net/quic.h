/* What every version of QUIC shows of its packets to a load balancer (RFC 8999): the form of the first header of a
 * datagram and its connection ids. Nothing else is read: packets are encrypted, and coalesced ones go the same way.
 */
#ifndef TIDEGATE_QUIC_H
#define TIDEGATE_QUIC_H

#include <stddef.h>
#include <stdint.h>

#define TG_QUIC_CID_MAX 255u /* of RFC 8999; versions 1 and 2 have 20 at most */

enum tg_quic_form {
    TG_QUIC_NONE,   /* no packet of QUIC: too short */
    TG_QUIC_SHORT,  /* the destination's connection id follows at once; the header does not tell its length */
    TG_QUIC_LONG,   /* the connection id was chosen by the other side */
    TG_QUIC_FIRST,  /* long, and the client may have made up the connection id: Initial, 0-RTT, an unknown version */
    TG_QUIC_OTHER,  /* version negotiation: its source is what the client made up */
};

typedef struct {
    const unsigned char *destination; /* connection ids, within the datagram */
    const unsigned char *source;      /* long headers only, else NULL */
    size_t destination_length;        /* short header: all that follows the first byte */
    size_t source_length;
} tg_quic_ids;

/* Whether a long header of this version and type may have a destination that its client made up. */
static inline int tg_quic_made_up(uint32_t version, unsigned char first) {
    unsigned kind = (first >> 4) & 3u;
    if (version == 1u) /* RFC 9000 section 17.2: 0 Initial, 1 0-RTT, 2 Handshake, 3 Retry */
        return kind < 2;
    if (version == 0x6b3343cfu) /* RFC 9369 section 3.2: 1 Initial, 2 0-RTT, 3 Handshake, 0 Retry */
        return kind == 1 || kind == 2;
    return 1;
}

/* Reads the first header of a datagram. */
static inline enum tg_quic_form tg_quic_read(const unsigned char *data, size_t size, tg_quic_ids *ids) {
    uint32_t version;
    size_t at = 5, length;
    ids->source = NULL;
    ids->source_length = 0;
    if (size < 2)
        return TG_QUIC_NONE;
    if (!(data[0] & 0x80)) {
        ids->destination = data + 1;
        ids->destination_length = size - 1;
        return TG_QUIC_SHORT;
    }
    if (size < 7)
        return TG_QUIC_NONE;
    version = (uint32_t)data[1] << 24 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 8 | data[4];
    length = data[at++];
    if (length >= size - at) /* the length of the source has to follow */
        return TG_QUIC_NONE;
    ids->destination = data + at;
    ids->destination_length = length;
    at += length;
    length = data[at++];
    if (length > size - at)
        return TG_QUIC_NONE;
    ids->source = data + at;
    ids->source_length = length;
    if (version == 0)
        return TG_QUIC_OTHER;
    return tg_quic_made_up(version, data[0]) ? TG_QUIC_FIRST : TG_QUIC_LONG;
}

/* The number in `length` (1 to 8) bytes, in network byte order. */
static inline uint64_t tg_quic_number(const unsigned char *data, size_t length) {
    uint64_t number = 0;
    for (size_t i = 0; i < length; i++)
        number = number << 8 | data[i];
    return number;
}

#endif
