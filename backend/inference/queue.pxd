"""Waiting inferences of one model by what can run together, and the decision which of them run next."""

from libc.stdint cimport int64_t, uint64_t
from backend.inference.inference cimport tg_inference
from lb.net.link cimport tg_link


ctypedef struct tg_queue:
    tg_link groups                    # of inferences with equal keys; they take turns, so that no kind starves another
    int count
    uint64_t delay                    # ns that the oldest of a group may wait for the group to fill


cdef void queue_init(tg_queue *queue, uint64_t delay) noexcept
# 0, or -1: no memory.
cdef int queue_push(tg_queue *queue, tg_inference *inference) noexcept
cdef void queue_remove(tg_queue *queue, tg_inference *inference) noexcept
# Moves inferences that run together now to `taken`, oldest first: as many of one group as have `most` rows together; at
# least one, whatever its size. Their rows; 0 when every group may still wait.
cdef int64_t queue_take(tg_queue *queue, uint64_t now, int64_t most, tg_link *taken) noexcept
# The one that waits longest, of those that were in no run yet; NULL = there is none.
cdef tg_inference *queue_oldest(const tg_queue *queue) noexcept
# When `queue_take` will have something without any new one (monotonic ns); NEVER when nothing waits.
cdef uint64_t queue_due(const tg_queue *queue) noexcept
