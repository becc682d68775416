"""How this process's allocator deals with large blocks."""

cdef extern from *:
    """
    #include <malloc.h>
    #include <features.h>
    #ifdef __GLIBC__
    static int tg_keep_large_blocks(int largest, int spare) {
        return mallopt(M_MMAP_THRESHOLD, largest) == 1 && mallopt(M_TRIM_THRESHOLD, spare) == 1;
    }
    #else
    static int tg_keep_large_blocks(int largest, int spare) { (void)largest; (void)spare; return 1; }
    #endif
    """
    int tg_keep_large_blocks(int largest, int spare) nogil

cdef enum:
    LARGEST = 32 * 1024 * 1024        # glibc takes no more
    SPARE = 64 * 1024 * 1024


def keep_large_blocks() -> None:
    """Blocks of up to 32 MiB come from the heap, of which up to 64 MiB stay when they are free.

    glibc gives large blocks back to the kernel at once, and each tensor of 1 MiB is then paid for with some hundred
    page faults: more than copying it costs. Another C library is left as it is. Raises OSError when the
    allocator refuses, as one that was loaded before glibc's may.
    """
    if not tg_keep_large_blocks(LARGEST, SPARE):
        raise OSError("the allocator's thresholds could not be set")
