"""Headers under another spelling of their names: see aliases.pxd."""

from libc.stdint cimport uint32_t
from lb.http.head cimport H_GRPC_STATUS, H_OTHER, Field, Scan, classify, same_name

cdef enum:
    NAME_MOST = 256                   # longer ones are nobody's

cdef unsigned char PLAIN[256]         # letters, digits and the hyphen: in lower case; all others: 0


cdef void know_plain() noexcept:
    cdef int c
    for c in range(256):
        PLAIN[c] = <unsigned char>(c | 32 if 65 <= c <= 90 else c if 97 <= c <= 122 or 48 <= c <= 57 or c == 45 else 0)


know_plain()


cdef bint is_plain(const char *name, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if not PLAIN[<unsigned char>name[i]]:
            return False
    return True


cdef bint is_ours(const char *plain, size_t n) noexcept nogil:
    """Whether a name in lower case is one that the proxy knows."""
    cdef Field field
    field.name = plain
    field.name_length = <uint32_t>n
    classify(&field)
    return field.id != H_OTHER or same_name(plain, n, b"x-forwarded-client-cert")


cdef bint is_spelling(const char *name, const char *plain, size_t n) noexcept nogil:
    cdef size_t i
    cdef unsigned char c
    for i in range(n):
        c = PLAIN[<unsigned char>name[i]]
        if (c if c else 45) != <unsigned char>plain[i]:
            return False
    return True


cdef bint is_alias(const char *name, size_t n, dict guarded) noexcept:
    cdef char plain[NAME_MOST]
    cdef size_t i
    cdef char c
    if n > NAME_MOST or is_plain(name, n):
        return False
    for i in range(n):
        c = <char>PLAIN[<unsigned char>name[i]]
        plain[i] = c if c else 45
    if is_ours(plain, n):
        return True
    if not guarded:
        return False
    spellings = guarded.get(plain[:n])
    return spellings is not None and name[:n].lower() not in spellings


cdef int hide_aliases(Scan *scan, dict guarded) noexcept:
    cdef int i, count = 0
    cdef Field *field
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if field.id == H_OTHER and not field.hop and is_alias(field.name, field.name_length, guarded):
            field.hop = True
            count += 1
    return count


cdef void hide_trailers(Scan *scan, dict guarded) noexcept:
    cdef int i
    cdef Field *field
    for i in range(scan.trailer_count):
        field = &scan.trailers[i]
        if field.hop:
            continue
        field.hop = ((field.id != H_OTHER and field.id != H_GRPC_STATUS)
                     or is_alias(field.name, field.name_length, guarded) or is_guarded(field, guarded))


cdef bint is_guarded(const Field *field, dict guarded) noexcept:
    return bool(guarded) and field.name[:field.name_length].lower().replace(b"_", b"-") in guarded


cdef void guard_name(dict guarded, bytes name):
    """`guarded` has for each name with hyphens alone the ways in which the configuration spells it."""
    cdef bytes plain = bytes([PLAIN[<unsigned char>c] or 45 for c in name])
    guarded.setdefault(plain, set()).add(name)
