"""Content codings that a client accepts: see codings.pxd."""

from lb.http.head cimport same_name

cdef enum:
    FULL = 1000                       # weight of what says none
    MALFORMED = -1


cdef inline bint is_space(char c) noexcept nogil:
    return c == c' ' or c == c'\t'


cdef int weight_of(const char *text, size_t n) noexcept nogil:
    """Per mille, of what stands behind a coding's name: nothing, or ";q=0.5"."""
    cdef size_t i = 0
    cdef int weight, unit = 100
    while i < n and is_space(text[i]):
        i += 1
    if i == n:
        return FULL
    if text[i] != c';':
        return MALFORMED
    i += 1
    while i < n and is_space(text[i]):
        i += 1
    while n > i and is_space(text[n - 1]):
        n -= 1
    if n - i < 3 or (text[i] != c'q' and text[i] != c'Q') or text[i + 1] != c'=':
        return MALFORMED
    if text[i + 2] != c'0' and text[i + 2] != c'1':
        return MALFORMED
    weight = FULL if text[i + 2] == c'1' else 0
    i += 3
    if i == n:
        return weight
    if text[i] != c'.' or n - i > 4:
        return MALFORMED
    for i in range(i + 1, n):
        if text[i] < c'0' or text[i] > c'9':
            return MALFORMED
        weight += unit * (text[i] - c'0')
        unit //= 10
    return MALFORMED if weight > FULL else weight


cdef void accept_codings(tg_accepted *accepted, const char *value, size_t n) noexcept nogil:
    cdef size_t start = 0, end, name
    cdef int weight
    while start < n:
        end = start
        while end < n and value[end] != c',':
            end += 1
        while start < end and is_space(value[start]):
            start += 1
        name = start
        while name < end and value[name] != c';' and not is_space(value[name]):
            name += 1
        weight = weight_of(value + name, end - name)
        if weight != MALFORMED:
            if same_name(value + start, name - start, b"gzip") or same_name(value + start, name - start, b"x-gzip"):
                accepted.gzip = weight + 1
            elif same_name(value + start, name - start, b"deflate"):
                accepted.deflate = weight + 1
            elif same_name(value + start, name - start, b"br"):
                accepted.br = weight + 1
            elif same_name(value + start, name - start, b"zstd"):
                accepted.zstd = weight + 1
            elif same_name(value + start, name - start, b"identity"):
                accepted.identity = weight + 1
            elif same_name(value + start, name - start, b"*"):
                accepted.any = weight + 1
        start = end + 1


cdef int accepted_weight(const tg_accepted *accepted, const char *coding) noexcept nogil:
    cdef int weight = 0
    if coding[0] == c'g':
        weight = accepted.gzip
    elif coding[0] == c'b':
        weight = accepted.br
    elif coding[0] == c'z':
        weight = accepted.zstd
    return weight if weight else accepted.any


cdef int best_coding(const tg_accepted *accepted) noexcept nogil:
    cdef int gzip = accepted.gzip if accepted.gzip else accepted.any
    cdef int deflate = accepted.deflate if accepted.deflate else accepted.any
    cdef int best = max(gzip, deflate)
    if best <= 1 or best < accepted.identity:
        return CODING_IDENTITY
    return CODING_GZIP if gzip == best else CODING_DEFLATE
