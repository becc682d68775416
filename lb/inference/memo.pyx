"""A bounded memo of templates.

Two generations: a full young one becomes the old one, and what is found in the old one moves up. Every operation is
one or two dictionary operations, and an entry that is in use stays.
"""

cimport cython
from lb.inference.template cimport Template


@cython.final
cdef class Memo:
    """Holds at most 2 * `generation` templates."""

    def __init__(self, Py_ssize_t generation):
        self.generation = generation
        self.young = {}
        self.old = {}

    cdef Template get(self, bytes key):
        template = self.young.get(key)
        if template is None:
            template = self.old.get(key)
            if template is None:
                self.misses += 1
                return None
            self.put(key, <Template>template)
        self.hits += 1
        return <Template>template

    cdef int put(self, bytes key, Template template) except -1:
        if len(self.young) >= self.generation:
            self.old = self.young
            self.young = {}
        self.young[key] = template
        return 0

    def __len__(self):
        return len(self.young) + len(self.old)
