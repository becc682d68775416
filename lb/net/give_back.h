/* Memory that will not be read again, given back to the system before its block is freed. */
#ifndef TIDEGATE_GIVE_BACK_H
#define TIDEGATE_GIVE_BACK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

/* The pages that lie wholly in the `n` bytes at `data`, which are of a block of malloc. What they hold is undefined then;
   they can be written again. A failure costs the memory alone, until the block is freed. */
static inline void tg_give_back(const char *data, size_t n) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)data + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)data + n) / page * page;
    if (begin < end)
        (void)madvise((void *)begin, end - begin, MADV_DONTNEED);
}

#endif
