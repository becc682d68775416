"""lb.net.stack from Python."""

from lb.net.stack cimport Stack


class StackProbe:
    """A Stack by its operations; `contents` are its objects from the first on."""

    def __init__(self):
        self.stack = Stack()

    def push(self, one):
        (<Stack>self.stack).push(one)

    def pop(self):
        return (<Stack>self.stack).pop()

    def remove(self, one):
        (<Stack>self.stack).remove(one)

    def clear(self):
        (<Stack>self.stack).clear()

    def contents(self):
        cdef Stack stack = self.stack
        return stack.items[:stack.count]

    def behind(self):
        """What stands behind the last one."""
        cdef Stack stack = self.stack
        return stack.items[stack.count:]
