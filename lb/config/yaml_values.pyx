"""YAML text straight to values, where it is as most files are; see lb.config.document.

The nodes that PyYAML makes of a text, with their places in it, take four fifths of the time of reading it. They are of
use only where something is wrong with the text, or it has anchors, tags or merge keys: then this says so and they are
made.
"""

from cpython.unicode cimport PyUnicode_DecodeUTF8
from lb.config.libyaml cimport (
    YAML_DOCUMENT_END_EVENT, YAML_DOCUMENT_START_EVENT, YAML_MAPPING_END_EVENT, YAML_MAPPING_START_EVENT,
    YAML_PLAIN_SCALAR_STYLE, YAML_SCALAR_EVENT, YAML_SEQUENCE_END_EVENT, YAML_SEQUENCE_START_EVENT,
    YAML_STREAM_END_EVENT, YAML_STREAM_START_EVENT, YAML_UTF8_ENCODING, yaml_char_t, yaml_event_delete, yaml_event_t,
    yaml_parser_delete, yaml_parser_initialize, yaml_parser_parse, yaml_parser_set_encoding,
    yaml_parser_set_input_string, yaml_parser_t,
)


class NotPlainError(Exception):
    """There is more to a text than values."""


# In place of a value: its list or mapping is at its end.
cdef object END = object()


cdef class Reader:
    """The one document of `text`; `scalar` gives the value of a plain scalar that may be anything but text, and raises
    NotPlainError where it is a matter for nodes."""
    cdef yaml_parser_t parser
    cdef bint made
    cdef bytes text
    cdef object scalar
    cdef dict keys                    # each key's text once
    cdef int depth_left
    cdef int left

    def __cinit__(self, bytes text not None, scalar, int depth, int nodes):
        if not yaml_parser_initialize(&self.parser):
            raise MemoryError
        self.made = True
        self.text = text
        self.scalar = scalar
        self.keys = {}
        self.depth_left = depth
        self.left = nodes
        yaml_parser_set_encoding(&self.parser, YAML_UTF8_ENCODING)
        yaml_parser_set_input_string(&self.parser, <const unsigned char *><const char *>text, <size_t>len(text))

    def __dealloc__(self):
        if self.made:
            yaml_parser_delete(&self.parser)

    cdef int next(self, yaml_event_t *event) except -1:
        """The next event, which is the caller's to delete."""
        if not yaml_parser_parse(&self.parser, event):
            raise NotPlainError
        return 0

    cdef int expect(self, int kind) except -1:
        cdef yaml_event_t event
        cdef bint right
        self.next(&event)
        right = <int>event.type == kind
        yaml_event_delete(&event)
        if not right:
            raise NotPlainError
        return 0

    cdef dict document(self):
        cdef yaml_event_t event
        self.expect(YAML_STREAM_START_EVENT)
        self.expect(YAML_DOCUMENT_START_EVENT)
        self.next(&event)
        try:
            if event.type != YAML_MAPPING_START_EVENT:
                raise NotPlainError
            result = self.of_event(&event)
        finally:
            yaml_event_delete(&event)
        self.expect(YAML_DOCUMENT_END_EVENT)
        self.expect(YAML_STREAM_END_EVENT)
        return result

    cdef object value(self):
        """The next value, or END."""
        cdef yaml_event_t event
        self.next(&event)
        try:
            return self.of_event(&event)
        finally:
            yaml_event_delete(&event)

    cdef object of_event(self, const yaml_event_t *event):
        cdef bint marked
        if event.type == YAML_SEQUENCE_END_EVENT:
            return END
        self.left -= 1
        if self.left < 0 or self.depth_left < 0:
            raise NotPlainError
        if event.type == YAML_SCALAR_EVENT:
            return self.of_scalar(event)
        if event.type == YAML_MAPPING_START_EVENT:
            marked = event.data.mapping_start.anchor != NULL or event.data.mapping_start.tag != NULL
        elif event.type == YAML_SEQUENCE_START_EVENT:
            marked = event.data.sequence_start.anchor != NULL or event.data.sequence_start.tag != NULL
        else:
            raise NotPlainError       # an alias
        if marked:
            raise NotPlainError
        self.depth_left -= 1
        result = self.mapping() if event.type == YAML_MAPPING_START_EVENT else self.sequence()
        self.depth_left += 1
        return result

    cdef object of_scalar(self, const yaml_event_t *event):
        cdef const yaml_char_t *value = event.data.scalar.value
        cdef yaml_char_t first
        if event.data.scalar.anchor != NULL or event.data.scalar.tag != NULL:
            raise NotPlainError
        text = PyUnicode_DecodeUTF8(<const char *>value, <Py_ssize_t>event.data.scalar.length, NULL)
        if event.data.scalar.style != YAML_PLAIN_SCALAR_STYLE:
            return text
        first = value[0] if event.data.scalar.length else 0
        # What no number, truth value, null or merge key begins with: see the patterns of lb.config.document.
        if first == 47 or 65 <= first <= 69 or 71 <= first <= 77 or 97 <= first <= 101 or 103 <= first <= 109 or (
                111 <= first <= 115) or 117 <= first <= 122:
            return text
        return self.scalar(text)

    cdef list sequence(self):
        cdef list result = []
        while True:
            value = self.value()
            if value is END:
                return result
            result.append(value)

    cdef dict mapping(self):
        cdef dict result = {}
        cdef Py_ssize_t count = 0
        while True:
            key = self.key()
            if key is END:
                if len(result) != count:
                    raise NotPlainError   # a key twice
                return result
            count += 1
            result[key] = self.value()

    cdef object key(self):
        """The next key, or END. A key is text, whatever it looks like."""
        cdef yaml_event_t event
        self.next(&event)
        try:
            if event.type == YAML_MAPPING_END_EVENT:
                return END
            if event.type != YAML_SCALAR_EVENT or event.data.scalar.anchor != NULL or event.data.scalar.tag != NULL:
                raise NotPlainError
            text = PyUnicode_DecodeUTF8(
                <const char *>event.data.scalar.value, <Py_ssize_t>event.data.scalar.length, NULL)
            if text == "<<" and event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE:
                raise NotPlainError
            return self.keys.setdefault(text, text)
        finally:
            yaml_event_delete(&event)


def values(bytes text, scalar: Callable[[str], Any], int depth, int nodes) -> dict[str, Any]:
    """The values of the YAML `text` (UTF-8), a mapping of at most `nodes` values at most `depth` levels deep. `scalar`
    gives the value of a plain scalar. Raises NotPlainError where that is not all there is to the text."""
    cdef Reader reader = Reader(text, scalar, depth, nodes)
    return reader.document()
