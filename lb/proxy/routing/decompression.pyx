"""Which bodies of a route are decompressed."""

from lb.config.plan.routes import DecompressionPlan
from lb.http.decoders import decoders

from lb.http.head cimport H_CONTENT_ENCODING, Field, Scan

cdef enum:
    NAME_ROOM = 16                    # bytes; no name of a coding is longer


cdef class DecompressionRules:
    """The rules of a DecompressionPlan. Raises ImportError where a coding's package is missing."""

    def __init__(self, plan: DecompressionPlan) -> None:
        self.makers = {name.encode("ascii"): decoders(name) for name in plan.codings}
        if b"gzip" in self.makers:
            self.makers[b"x-gzip"] = self.makers[b"gzip"]     # RFC 9110 section 8.4.1.3
        self.requests = plan.requests
        self.answers = plan.answers
        self.max_ratio = plan.max_ratio

    cdef object decoder_of(self, const Scan *scan):
        cdef const Field *field = self.coding_of(scan)
        return None if field == NULL else self.makers[field.value[:field.value_length].lower()]()

    cdef const Field *coding_of(self, const Scan *scan) noexcept:
        cdef const Field *field = NULL
        cdef int i
        if scan.first[H_CONTENT_ENCODING] < 0:
            return NULL
        for i in range(scan.field_count):
            if scan.fields[i].id == H_CONTENT_ENCODING and not scan.fields[i].hop:
                if field != NULL:
                    return NULL
                field = &scan.fields[i]
        if (field == NULL or field.value_length > NAME_ROOM
                or field.value[:field.value_length].lower() not in self.makers):
            return NULL
        return field
