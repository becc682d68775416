"""Waiting inferences of one model: see queue.pxd.

An inference is never held back to wait for others unless a delay is asked for: with 0 a batch is what came in while all
runs were taken.
"""

from libc.stdint cimport UINT64_MAX, int64_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy
from backend.inference.inference cimport INFERENCE_NEW, INFERENCE_RUNS, INFERENCE_WAITS, tg_inference
from lb.net.link cimport link_append, link_empty, link_init, link_remove, tg_link


cdef struct tg_group:
    tg_link link
    tg_link members
    int64_t rows
    char *key                         # behind the group; NULL = nothing joins it
    size_t key_size


cdef void queue_init(tg_queue *queue, uint64_t delay) noexcept:
    link_init(&queue.groups)
    queue.count = 0
    queue.delay = delay


cdef tg_group *group_of(tg_queue *queue, const tg_inference *inference) noexcept:
    """NULL: no memory."""
    cdef bint alone = inference.alone or inference.key == NULL
    cdef size_t size = 0 if alone else inference.key_size
    cdef tg_link *link = queue.groups.next
    cdef tg_group *group
    while link != &queue.groups and not alone:
        group = <tg_group *>link.owner
        if (group.key != NULL and group.key_size == size and memcmp(group.key, inference.key, size) == 0):
            return group
        link = link.next
    group = <tg_group *>malloc(sizeof(tg_group) + size + 1)
    if group == NULL:
        return NULL
    group.link.owner = group
    link_init(&group.members)
    group.rows = 0
    group.key = NULL if alone else <char *>(group + 1)
    group.key_size = size
    if not alone:
        memcpy(group.key, inference.key, size)
    link_append(&queue.groups, &group.link)
    return group


cdef void leave(tg_queue *queue, tg_group *group, tg_inference *inference) noexcept:
    link_remove(&inference.link)
    group.rows -= inference.rows
    queue.count -= 1
    inference.group = NULL


cdef void end(tg_group *group) noexcept:
    link_remove(&group.link)
    free(group)


cdef int queue_push(tg_queue *queue, tg_inference *inference) noexcept:
    cdef tg_group *group = group_of(queue, inference)
    if group == NULL:
        return -1
    link_append(&group.members, &inference.link)
    group.rows += inference.rows
    queue.count += 1
    inference.group = group
    inference.state = INFERENCE_WAITS
    return 0


cdef void queue_remove(tg_queue *queue, tg_inference *inference) noexcept:
    cdef tg_group *group = <tg_group *>inference.group
    leave(queue, group, inference)
    inference.state = INFERENCE_NEW
    if link_empty(&group.members):
        end(group)


cdef inline uint64_t due(const tg_queue *queue, const tg_group *group) noexcept:
    """When the group runs, however few it has."""
    cdef const tg_inference *oldest = <tg_inference *>group.members.next.owner
    return oldest.since + (queue.delay if group.key != NULL else 0)


cdef int64_t queue_take(tg_queue *queue, uint64_t now, int64_t most, tg_link *taken) noexcept:
    cdef tg_link *link = queue.groups.next
    cdef tg_group *group
    cdef tg_inference *inference
    cdef int64_t rows = 0
    while link != &queue.groups:
        group = <tg_group *>link.owner
        link = link.next
        if queue.delay and group.rows < most and now < due(queue, group):
            continue
        while not link_empty(&group.members):
            inference = <tg_inference *>group.members.next.owner
            if rows and rows + inference.rows > most:
                break
            leave(queue, group, inference)
            inference.state = INFERENCE_RUNS
            rows += inference.rows
            link_append(taken, &inference.link)
        if link_empty(&group.members):
            end(group)
        else:
            link_remove(&group.link)
            link_append(&queue.groups, &group.link)       # behind the others
        return rows
    return 0


cdef uint64_t queue_due(const tg_queue *queue) noexcept:
    cdef const tg_link *link = queue.groups.next
    cdef uint64_t first = UINT64_MAX
    while link != &queue.groups:
        first = min(first, due(queue, <const tg_group *>link.owner))
        link = link.next
    return first


cdef tg_inference *queue_oldest(const tg_queue *queue) noexcept:
    cdef const tg_link *link = queue.groups.next
    cdef tg_inference *oldest = NULL
    cdef tg_inference *first
    while link != &queue.groups:
        first = <tg_inference *>(<const tg_group *>link.owner).members.next.owner
        if not first.alone and (oldest == NULL or first.since < oldest.since):
            oldest = first
        link = link.next
    return oldest
