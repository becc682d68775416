"""Keys that are texts with values of the request: see text_key.pxd."""

from collections.abc import Mapping

from lb.net.buffer cimport tg_buffer, tg_buffer_clear, tg_buffer_head, tg_buffer_size
from lb.proxy.routing.values.format cimport Format, RequestValues, tg_values
from lb.proxy.routing.values.lookup cimport Lookup

cdef tg_buffer made                   # the last text


cdef class TextKey:
    """`text` of the plan, with its marks, for a route whose path is `path`, of `path_kind` (RoutePlan); `maps` are as
    in Format. Raises as Format does."""

    def __init__(
        self, text: str, maps: Mapping[str, tuple[str, Lookup]] | None = None, path_kind: str = "", path: str = ""
    ) -> None:
        self.format = Format(text, "text", maps)
        self.wanted = RequestValues(self.format.kinds, path_kind, path)

    cdef bint find(self, const tg_values *values, const char **text, size_t *n) noexcept:
        tg_buffer_clear(&made)
        if self.format.append(&made, values) < 0:
            return False
        text[0] = tg_buffer_head(&made)
        n[0] = tg_buffer_size(&made)
        return n[0] != 0

    def text_of(self, request: bytes, known: Mapping[str, bytes]) -> bytes:
        """The text for `request`, a head of HTTP/1.1, and `known` values by name; for explanations and tests. Raises
        ValueError for what is no request, and for a text that would be too long."""
        return self.format.filled(request, dict(known), None, None)
