"""How a record of the access log's ring is shown: a line of JSON, or what an exporter of spans gets."""

from lb.core.buffer cimport tg_buffer
from lb.telemetry.accesslog cimport tg_access

# Where the text `which` (A_*) of a record lies, and how much room it has.
cdef char *room_of(tg_access *record, int which, size_t *room) noexcept nogil
# Its name in a line.
cdef const char *text_name(int which) noexcept nogil
# Appends the record's line. 0, or -1 when memory is out: part of it may be there then.
cdef int format_record(tg_access *record, tg_buffer *out) noexcept nogil
# The record as plain objects: times in ns, ids as bytes (parent_id b"" where the trace began here), texts as str.
cdef dict span_of(tg_access *record)
