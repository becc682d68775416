"""Waiting inferences of one model: see queue.pxd.

An inference is never held back to wait for others unless a delay is asked for: with 0 a batch is what came in while all
runs were taken.
"""

from libc.stdint cimport UINT64_MAX, int64_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy
from backend.inference.inference cimport INFERENCE_NEW, INFERENCE_RUNS, INFERENCE_WAITS, tg_inference
from lb.net.link cimport link_append, link_empty, link_init, link_remove, tg_link


cdef struct tg_group:
    tg_link link
    tg_link members
    int64_t rows
    char *key                         # behind the group; NULL = nothing joins it
    size_t key_size


cdef int queue_init(tg_queue *queue, uint64_t delay, int levels) noexcept:
    cdef int i
    queue.levels = <tg_level *>calloc(<size_t>levels, sizeof(tg_level))
    if queue.levels == NULL:
        return -1
    for i in range(levels):
        link_init(&queue.levels[i].groups)
    queue.level_count = levels
    queue.count = 0
    queue.rows = 0
    queue.delay = delay
    return 0


cdef void queue_free(tg_queue *queue) noexcept:
    free(queue.levels)
    queue.levels = NULL


cdef tg_group *group_with(tg_level *level, const char *key, size_t size) noexcept:
    """NULL: there is none."""
    cdef tg_link *link = level.groups.next
    cdef tg_group *group
    while link != &level.groups:
        group = <tg_group *>link.owner
        if group.key != NULL and group.key_size == size and memcmp(group.key, key, size) == 0:
            return group
        link = link.next
    return NULL


cdef tg_group *group_of(tg_level *level, const tg_inference *inference) noexcept:
    """NULL: no memory."""
    cdef bint alone = inference.alone or inference.key == NULL
    cdef size_t size = 0 if alone else inference.key_size
    cdef tg_group *group = NULL if alone else group_with(level, inference.key, size)
    if group != NULL:
        return group
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
    link_append(&level.groups, &group.link)
    return group


cdef void leave(tg_queue *queue, tg_group *group, tg_inference *inference) noexcept:
    link_remove(&inference.link)
    group.rows -= inference.rows
    queue.levels[inference.level].count -= 1
    queue.count -= 1
    queue.rows -= inference.rows
    inference.group = NULL


cdef void end(tg_group *group) noexcept:
    link_remove(&group.link)
    free(group)


cdef int queue_push(tg_queue *queue, tg_inference *inference) noexcept:
    cdef tg_level *level = &queue.levels[inference.level]
    cdef tg_group *group = group_of(level, inference)
    if group == NULL:
        return -1
    link_append(&group.members, &inference.link)
    group.rows += inference.rows
    level.count += 1
    queue.count += 1
    queue.rows += inference.rows
    inference.group = group
    inference.state = INFERENCE_WAITS
    return 0


cdef void queue_remove(tg_queue *queue, tg_inference *inference) noexcept:
    cdef tg_group *group = <tg_group *>inference.group
    leave(queue, group, inference)
    inference.state = INFERENCE_NEW
    if link_empty(&group.members):
        end(group)


cdef bint queue_full(const tg_queue *queue) noexcept:
    cdef int i
    for i in range(queue.level_count):
        if queue.levels[i].count >= queue.levels[i].most:
            return True
    return False


cdef inline uint64_t due(const tg_queue *queue, const tg_group *group) noexcept:
    """When the group runs, however few it has."""
    cdef const tg_inference *oldest = <tg_inference *>group.members.next.owner
    return oldest.since + (queue.delay if group.key != NULL else 0)


cdef tg_group *next_group(const tg_queue *queue, const tg_level *level, uint64_t now, int64_t most) noexcept:
    """The first that waits no longer; NULL = there is none."""
    cdef const tg_link *link = level.groups.next
    cdef tg_group *group
    while link != &level.groups:
        group = <tg_group *>link.owner
        if not queue.delay or group.rows >= most or now >= due(queue, group):
            return group
        link = link.next
    return NULL


cdef int64_t take_from(tg_queue *queue, tg_level *level, tg_group *group, int64_t rows, int64_t most,
                       tg_link *taken) noexcept:
    """More of a group beside `rows` that were taken; all of the rows then."""
    cdef tg_inference *inference
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
        link_append(&level.groups, &group.link)           # behind the others
    return rows


cdef int64_t queue_take(tg_queue *queue, uint64_t now, int64_t most, tg_link *taken) noexcept:
    cdef const tg_inference *first
    cdef tg_level *level
    cdef tg_group *group
    cdef int64_t rows = 0
    cdef bint alone
    cdef int i
    for i in range(queue.level_count):
        level = &queue.levels[i]
        if level.count == 0:
            continue
        if rows:
            first = <tg_inference *>taken.next.owner
            group = group_with(level, first.key, first.key_size)
        else:
            group = next_group(queue, level, now, most)
        if group == NULL:
            continue
        alone = group.key == NULL
        rows = take_from(queue, level, group, rows, most, taken)
        if alone or rows >= most:
            break
    return rows


cdef uint64_t queue_due(const tg_queue *queue) noexcept:
    cdef const tg_link *link
    cdef uint64_t first = UINT64_MAX
    cdef int i
    for i in range(queue.level_count):
        link = queue.levels[i].groups.next
        while link != &queue.levels[i].groups:
            first = min(first, due(queue, <const tg_group *>link.owner))
            link = link.next
    return first


cdef tg_inference *level_oldest(const tg_level *level) noexcept:
    cdef const tg_link *link = level.groups.next
    cdef tg_inference *oldest = NULL
    cdef tg_inference *first
    while link != &level.groups:
        first = <tg_inference *>(<const tg_group *>link.owner).members.next.owner
        if not first.alone and (oldest == NULL or first.since < oldest.since):
            oldest = first
        link = link.next
    return oldest
