"""Threads without the interpreter: see threads.pxd.

They are woken one for each piece of work, and only those that sleep; what they have done is told once until it is
looked at, so that many ends make one wakeup.
"""

from libc.errno cimport ENOMEM, errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from posix.unistd cimport close, read, write
from lb.net.link cimport link_append, link_empty, link_init, link_remove, link_splice, tg_link

cdef extern from "<sys/eventfd.h>" nogil:
    enum:
        EFD_NONBLOCK
        EFD_CLOEXEC
    int eventfd(unsigned int initial, int flags)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    enum:
        SIG_BLOCK
        SIG_SETMASK
    int sigfillset(sigset_t *set)

cdef extern from "<pthread.h>" nogil:
    int pthread_mutex_init(pthread_mutex_t *mutex, const void *attributes)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_cond_init(pthread_cond_t *condition, const void *attributes)
    int pthread_cond_destroy(pthread_cond_t *condition)
    int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)
    int pthread_cond_signal(pthread_cond_t *condition)
    int pthread_cond_broadcast(pthread_cond_t *condition)
    int pthread_create(pthread_t *thread, const void *attributes, void *(*start)(void *) noexcept nogil, void *argument)
    int pthread_join(pthread_t thread, void **result)
    int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)


cdef void *main(void *argument) noexcept nogil:
    cdef tg_threads *threads = <tg_threads *>argument
    cdef tg_link *link
    cdef uint64_t one = 1
    cdef bint first
    pthread_mutex_lock(&threads.mutex)
    while True:
        while link_empty(&threads.todo) and not threads.stopping:
            threads.sleeping += 1
            pthread_cond_wait(&threads.condition, &threads.mutex)
            threads.sleeping -= 1
        if link_empty(&threads.todo):
            break
        link = threads.todo.next
        link_remove(link)
        pthread_mutex_unlock(&threads.mutex)
        threads.work(link.owner)
        pthread_mutex_lock(&threads.mutex)
        first = link_empty(&threads.done)
        link_append(&threads.done, link)
        if first:
            write(threads.fd, &one, sizeof(one))      # fails only when it is readable as it is
    pthread_mutex_unlock(&threads.mutex)
    return NULL


cdef void threads_free(tg_threads *threads) noexcept:
    if threads.fd >= 0:
        close(threads.fd)
    free(threads.threads)
    free(threads)


cdef tg_threads *threads_start(int count, tg_work work, int *error) noexcept:
    cdef tg_threads *threads = <tg_threads *>calloc(1, sizeof(tg_threads))
    cdef sigset_t all_signals, before
    cdef tg_link none
    error[0] = ENOMEM
    if threads == NULL:
        return NULL
    link_init(&threads.todo)
    link_init(&threads.done)
    threads.work = work
    threads.threads = <pthread_t *>calloc(<size_t>count, sizeof(pthread_t))
    threads.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    if threads.fd < 0:
        error[0] = errno
    if threads.threads == NULL or threads.fd < 0:
        threads_free(threads)
        return NULL
    # Without attributes neither can fail on Linux.
    pthread_mutex_init(&threads.mutex, NULL)
    pthread_cond_init(&threads.condition, NULL)
    sigfillset(&all_signals)                      # they are for the interpreter's thread
    pthread_sigmask(SIG_BLOCK, &all_signals, &before)
    error[0] = 0
    while threads.count < count and error[0] == 0:
        error[0] = pthread_create(&threads.threads[threads.count], NULL, main, threads)
        if error[0] == 0:
            threads.count += 1
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    if error[0]:
        link_init(&none)
        threads_stop(threads, &none, &none)
        return NULL
    return threads


cdef int threads_fd(const tg_threads *threads) noexcept:
    return threads.fd


cdef void threads_give(tg_threads *threads, tg_link *link) noexcept:
    pthread_mutex_lock(&threads.mutex)
    link_append(&threads.todo, link)
    if threads.sleeping:
        pthread_cond_signal(&threads.condition)
    pthread_mutex_unlock(&threads.mutex)


cdef void threads_take(tg_threads *threads, tg_link *done) noexcept:
    cdef uint64_t told
    read(threads.fd, &told, sizeof(told))         # first: what is done from now on is told again
    pthread_mutex_lock(&threads.mutex)
    link_splice(done, &threads.done)
    pthread_mutex_unlock(&threads.mutex)


cdef void threads_stop(tg_threads *threads, tg_link *left, tg_link *done) noexcept:
    cdef int i
    pthread_mutex_lock(&threads.mutex)
    link_splice(left, &threads.todo)
    threads.stopping = True
    pthread_cond_broadcast(&threads.condition)
    pthread_mutex_unlock(&threads.mutex)
    with nogil:
        for i in range(threads.count):
            pthread_join(threads.threads[i], NULL)
    link_splice(done, &threads.done)
    pthread_cond_destroy(&threads.condition)
    pthread_mutex_destroy(&threads.mutex)
    threads_free(threads)
