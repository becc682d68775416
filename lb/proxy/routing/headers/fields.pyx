"""Changes to the fields of a head: see fields.pxd.

A field that is removed stays in the scan without a name, marked as hop-by-hop: nobody finds it, nobody passes it on.
"""

from libc.stdint cimport uint32_t
from lb.net.buffer cimport tg_buffer, tg_buffer_append
from lb.http.head cimport (
    H_CONNECTION, H_DATE, H_FORWARDED, H_HOST, H_OTHER, H_TRACEPARENT, H_VIA, H_X_FORWARDED_FOR, H_X_FORWARDED_HOST,
    H_X_FORWARDED_PORT, H_X_FORWARDED_PROTO, H_X_REQUEST_ID, MAX_FIELDS, Field, Scan, classify, has_token,
    mark_hop_by_hop, same_name,
)
from lb.http.head_text cimport append_text

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)

cdef const char *HOST = b"Host"
cdef const char *UPGRADE = b"upgrade"

# What the proxy tells an endpoint of where a request comes from, in lower case.
cdef dict TOLD = {
    "x-forwarded-for": 1 << H_X_FORWARDED_FOR, "x-forwarded-proto": 1 << H_X_FORWARDED_PROTO,
    "x-forwarded-host": 1 << H_X_FORWARDED_HOST, "x-forwarded-port": 1 << H_X_FORWARDED_PORT,
    "forwarded": 1 << H_FORWARDED, "via": 1 << H_VIA, "x-request-id": 1 << H_X_REQUEST_ID,
    "traceparent": 1 << H_TRACEPARENT, "x-forwarded-client-cert": OMIT_CERTIFICATE,
}


cdef class FieldRules:
    """The changes of a plan (`FieldsPlan`)."""

    def __init__(self, plan):
        names = [*plan.remove, *(name.lower() for name, _ in plan.set)]
        self.removed = tuple([name.encode("ascii") for name in names])
        for name in names:
            self.omit |= TOLD.get(name, 0)
        self.lines = tuple([(name.encode("ascii"), value.encode("latin-1")) for name, value in (*plan.set, *plan.add)])

    cdef int apply(self, Scan *scan) noexcept:
        cdef object item
        settle_connection(scan)
        for item in self.removed:
            remove(scan, <const char *><bytes>item, <size_t>len(<bytes>item))
        for item in self.lines:
            if put(scan, <bytes>(<tuple>item)[0], <bytes>(<tuple>item)[1]) < 0:
                return -1
        return 0

    cdef int append(self, tg_buffer *head) noexcept:
        cdef object item
        cdef bytes text
        cdef int failed = 0
        for item in self.lines:
            text = <bytes>(<tuple>item)[0]
            failed |= tg_buffer_append(head, <const char *>text, <size_t>len(text))
            failed |= append_text(head, b": ")
            text = <bytes>(<tuple>item)[1]
            failed |= tg_buffer_append(head, <const char *>text, <size_t>len(text))
            failed |= append_text(head, b"\r\n")
        return failed


cdef void settle_connection(Scan *scan) noexcept nogil:
    """Marks what Connection names, and leaves of it only what is no field's name: what we add must not be dropped later
    because the client has named it there."""
    cdef int i
    cdef Field *field
    if scan.first[H_CONNECTION] < 0:
        return
    hide_named(scan)
    for i in range(scan.first[H_CONNECTION], scan.field_count):
        field = &scan.fields[i]
        if field.id != H_CONNECTION:
            continue
        if has_token(field, UPGRADE):
            field.value = UPGRADE
            field.value_length = 7
        else:
            field.value_length = 0


cdef void hide_named(Scan *scan) noexcept nogil:
    cdef Field alone
    cdef int i
    if scan.first[H_CONNECTION] < 0:
        return
    mark_hop_by_hop(scan)
    for i in range(scan.field_count):
        if not scan.fields[i].hop or not is_named(scan, &scan.fields[i]):
            continue
        alone = scan.fields[i]
        classify(&alone)
        if not alone.hop:                     # as Upgrade is, which has to be found
            scan.fields[i].name_length = 0


cdef bint is_named(const Scan *scan, const Field *field) noexcept nogil:
    cdef const Field *names
    cdef size_t start, end, at
    cdef int i
    for i in range(scan.first[H_CONNECTION], scan.field_count):
        names = &scan.fields[i]
        if names.id != H_CONNECTION:
            continue
        at = 0
        while at < names.value_length:
            start = at
            while at < names.value_length and names.value[at] != 44:
                at += 1
            end = at
            at += 1
            while start < end and names.value[start] in (32, 9):
                start += 1
            while end > start and names.value[end - 1] in (32, 9):
                end -= 1
            if end - start == field.name_length and strncasecmp(names.value + start, field.name, end - start) == 0:
                return True
    return False


cdef void remove(Scan *scan, const char *name, size_t n) noexcept nogil:
    cdef int i, k, id
    cdef Field *field
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if field.name_length != n or strncasecmp(field.name, name, n) != 0:
            continue
        id = field.id
        field.id = H_OTHER
        field.name_length = 0
        field.value_length = 0
        field.hop = True
        if id != H_OTHER and scan.first[id] == i:
            scan.first[id] = -1
            for k in range(i + 1, scan.field_count):
                if scan.fields[k].id == id:
                    scan.first[id] = k
                    break


cdef int put(Scan *scan, bytes name, bytes value) noexcept:
    cdef Field *field
    if scan.field_count >= MAX_FIELDS - 1:
        return -1
    field = &scan.fields[scan.field_count]
    field.name = <const char *>name
    field.name_length = <uint32_t>len(name)
    field.value = <const char *>value
    field.value_length = <uint32_t>len(value)
    field.id = H_OTHER
    field.hop = False
    if same_name(field.name, field.name_length, b"date"):
        scan.first[H_DATE] = scan.field_count     # an answer that has one gets no other
    scan.field_count += 1
    return 0


cdef int replace_host(Scan *scan, bytes host) noexcept:
    cdef Field *field
    if scan.first[H_HOST] < 0:
        if scan.field_count >= MAX_FIELDS - 1:
            return -1
        field = &scan.fields[scan.field_count]
        field.name = HOST
        field.name_length = 4
        field.id = H_HOST
        field.hop = False
        scan.first[H_HOST] = scan.field_count
        scan.field_count += 1
    field = &scan.fields[scan.first[H_HOST]]
    field.value = <const char *>host
    field.value_length = <uint32_t>len(host)
    return 0


cdef const Field *find_agent(const Scan *scan) noexcept nogil:
    cdef int i
    for i in range(scan.field_count):
        if scan.fields[i].name_length == 10 and same_name(scan.fields[i].name, 10, b"user-agent"):
            return &scan.fields[i]
    return NULL
