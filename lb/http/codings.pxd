"""Content codings that a client accepts (RFC 9110 section 12.5.3)."""


cdef enum:
    CODING_IDENTITY = 0
    CODING_GZIP
    CODING_DEFLATE                    # the zlib format (RFC 9110 section 8.4.1.2)

cdef struct tg_accepted:              # zeroed = nothing is said; weights in per mille, plus one
    int gzip
    int deflate
    int br
    int zstd
    int identity
    int any                           # "*": of what is not named

# What the value of an Accept-Encoding field says. Of several fields each adds its elements; one that is malformed is
# passed over.
cdef void accept_codings(tg_accepted *accepted, const char *value, size_t n) noexcept nogil
# The weight of a coding, plus one, as in tg_accepted: 0 = nothing is said of it, 1 = it is refused. `coding` is gzip,
# br or zstd.
cdef int accepted_weight(const tg_accepted *accepted, const char *coding) noexcept nogil
# The coding to use, of gzip and deflate the former where both are equally welcome. Without a word of them: identity.
cdef int best_coding(const tg_accepted *accepted) noexcept nogil
