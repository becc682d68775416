"""An intrusive, circular, doubly linked list: nodes live inside the objects they link, so linking allocates nothing.

A list is a node of its own (the head, made empty by `link_init`). The list holds no references.
"""


ctypedef struct tg_link:
    tg_link *next                     # NULL = in no list
    tg_link *previous
    void *owner                       # the object this node is part of


cdef inline void link_init(tg_link *head) noexcept nogil:
    head.next = head
    head.previous = head


cdef inline bint link_empty(const tg_link *head) noexcept nogil:
    return head.next == head


cdef inline void link_after(tg_link *place, tg_link *node) noexcept nogil:
    node.next = place.next
    node.previous = place
    place.next.previous = node
    place.next = node


cdef inline void link_append(tg_link *head, tg_link *node) noexcept nogil:
    link_after(head.previous, node)


# Take a node out of whatever list it is in; nothing happens when it is in none.
cdef inline void link_remove(tg_link *node) noexcept nogil:
    if node.next == NULL:
        return
    node.next.previous = node.previous
    node.previous.next = node.next
    node.next = NULL
    node.previous = NULL


# Move all nodes of `source` to the end of `target`.
cdef inline void link_splice(tg_link *target, tg_link *source) noexcept nogil:
    if source.next == source:
        return
    source.next.previous = target.previous
    source.previous.next = target
    target.previous.next = source.next
    target.previous = source.previous
    link_init(source)
