"""Waiting inferences of one model by priority and by what can run together, and the decision which of them run next."""

from libc.stdint cimport int64_t, uint64_t
from backend.inference.inference cimport tg_inference
from lb.net.link cimport tg_link


ctypedef struct tg_level:
    # Inferences of one priority.
    tg_link groups                    # of those with equal keys; they take turns, so that no kind starves another
    int count
    int most                          # that may wait
    uint64_t timeout                  # ns that one may wait; 0 = as long as its deadline allows


ctypedef struct tg_queue:
    tg_level *levels                  # the first goes first
    int level_count
    int count
    int64_t rows
    uint64_t delay                    # ns that the oldest of a group may wait for the group to fill


# With `levels` levels, whose `most` and `timeout` are the caller's to set. 0, or -1: no memory.
cdef int queue_init(tg_queue *queue, uint64_t delay, int levels) noexcept
# Of a queue in which nothing waits.
cdef void queue_free(tg_queue *queue) noexcept
# To `inference.level`. 0, or -1: no memory.
cdef int queue_push(tg_queue *queue, tg_inference *inference) noexcept
cdef void queue_remove(tg_queue *queue, tg_inference *inference) noexcept
# Whether as many wait as may, in some level.
cdef bint queue_full(const tg_queue *queue) noexcept
# Moves inferences that run together now to `taken`, of the first level that has some, oldest first: as many of one
# group as have `most` rows together; at least one, whatever its size. What room is left is for those of lower levels
# that go with them. Their rows; 0 when every group may still wait.
cdef int64_t queue_take(tg_queue *queue, uint64_t now, int64_t most, tg_link *taken) noexcept
# The one of a level that waits longest, of those that were in no run yet; NULL = there is none.
cdef tg_inference *level_oldest(const tg_level *level) noexcept
# When `queue_take` will have something without any new one (monotonic ns); NEVER when nothing waits.
cdef uint64_t queue_due(const tg_queue *queue) noexcept
