"""Threads without the interpreter that do one kind of work, and tell of what is done by an eventfd."""

from lb.net.link cimport tg_link

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    ctypedef unsigned long pthread_t

# The work, for the owner of a link.
ctypedef void (*tg_work)(void *) noexcept nogil

ctypedef struct tg_threads:
    pthread_mutex_t mutex
    pthread_cond_t condition          # something is to be done, or it is over
    tg_link todo
    tg_link done
    tg_work work
    pthread_t *threads
    int count
    int sleeping
    bint stopping
    int fd


# Starts `count` threads that do `work`. NULL: `error`, an errno, says why.
cdef tg_threads *threads_start(int count, tg_work work, int *error) noexcept
# Readable when something is done; the threads' until `threads_stop`.
cdef int threads_fd(const tg_threads *threads) noexcept
# To be done: the owner of `link` belongs to the threads until it is taken.
cdef void threads_give(tg_threads *threads, tg_link *link) noexcept
# Moves all that is done to `done`, in the order in which it was done.
cdef void threads_take(tg_threads *threads, tg_link *done) noexcept
# What is not begun yet goes to `left`, and the threads end; they are waited for. What is done meanwhile goes to `done`.
cdef void threads_stop(tg_threads *threads, tg_link *left, tg_link *done) noexcept
