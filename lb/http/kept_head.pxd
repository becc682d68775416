"""A head that outlives the bytes it came in, and the scan it was found in."""

from lb.http.head cimport Field, Scan
from lb.net.buffer cimport tg_buffer


cdef struct tg_kept_head:
    # A method that has no number, the target, then names and values of the fields, one behind the other.
    tg_buffer text
    Field *fields                     # from malloc; their places are not set
    int field_count
    int first[32]
    int host_count
    int version
    int method
    unsigned int method_length
    unsigned int target_length
    unsigned long content_length
    bint has_length
    bint chunked
    bint websocket
    bint complete
    int span_count                    # of the body, which is not kept


# Keeps the head of `scan` in `kept`, which is all zero. 0, or -1: no memory; `head_free` is due in any case.
cdef int head_keep(tg_kept_head *kept, const Scan *scan) noexcept
# The head as it was, in `scan`, for as long as `kept` stays; what is said of the body is that of then.
cdef void head_restore(Scan *scan, const tg_kept_head *kept) noexcept
cdef void head_free(tg_kept_head *kept) noexcept
