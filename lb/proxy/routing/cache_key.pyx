"""What a request's head says for its key in the result cache: see cache_key.pxd."""

from libc.stdint cimport uint32_t
from lb.http.head cimport Field, Scan, has_token, same_name
from lb.proxy.routing.keys cimport count_values, find_value
from lb.upstream.pool cimport KEY_COOKIE, KEY_HEADER, KEY_NONE, KEY_QUERY

cdef dict KINDS = {"": KEY_NONE, "header": KEY_HEADER, "cookie": KEY_COOKIE, "query": KEY_QUERY}


cdef class CacheKeyRule:

    def __init__(self, plan):
        self.vary = tuple([name.encode("latin-1") for name in plan.vary])
        self.tenant_kind = KINDS[plan.tenant]
        self.tenant_name = plan.tenant_name.encode("latin-1")
        self.control = plan.control
        names = [*plan.vary, *{"header": [plan.tenant_name], "cookie": ["cookie"]}.get(plan.tenant, [])]
        self.varies = f"Vary: {', '.join(names)}\r\n".encode("latin-1") if names else b""

    cdef bytes variant(self, const Scan *scan):
        cdef bytes name
        cdef list found
        cdef list parts = []
        cdef const Field *field
        cdef uint32_t number
        cdef int i
        for name in self.vary:
            found = []
            for i in range(scan.field_count):
                field = &scan.fields[i]
                if field.name_length == <size_t>len(name) and same_name(field.name, field.name_length, name):
                    found.append((<const char *>&field.value_length)[:sizeof(number)])
                    found.append(field.value[:field.value_length])
            number = <uint32_t>len(found)     # none is not an empty one
            parts.append((<const char *>&number)[:sizeof(number)])
            parts.extend(found)
        if self.tenant_kind != KEY_NONE:
            parts.append(self.tenant(scan) or b"")
        return b"".join(parts)

    cdef bytes tenant(self, const Scan *scan):
        cdef const char *value
        cdef size_t n
        cdef const char *name = <const char *>self.tenant_name
        cdef size_t length = <size_t>len(self.tenant_name)
        if self.tenant_kind == KEY_NONE or not find_value(scan, self.tenant_kind, name, length, &value, &n):
            return None
        if count_values(scan, self.tenant_kind, name, length) != 1:
            return None                       # what checks the tenant in front may take another one for it
        return value[:n] if n else None

    cdef int control_of(self, const Scan *scan) noexcept nogil:
        cdef const Field *field
        cdef int found = CONTROL_NONE, i
        if not self.control:
            return CONTROL_NONE
        for i in range(scan.field_count):
            field = &scan.fields[i]
            if field.name_length != 13 or not same_name(field.name, 13, b"cache-control"):
                continue
            if has_token(field, b"no-store"):
                return CONTROL_NO_STORE
            if has_token(field, b"no-cache") or has_token(field, b"max-age=0"):
                found = CONTROL_NO_CACHE
        return found
