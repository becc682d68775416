/* An incremental keyed BLAKE2b-256. Opaque, so that users need neither libsodium's headers nor its alignment of 64 bytes. */
#ifndef TIDEGATE_HASHING_H
#define TIDEGATE_HASHING_H

/* Not to be moved or copied between init and final: the state is aligned inside. */
typedef struct {
    unsigned char opaque[384 + 64];
} tg_digest;

#endif
