"""Segments of a path that lead elsewhere."""


# How many segments of a path some server takes for "." or ".." (RFC 3986 section 3.3): escapes of dots, slashes,
# backslashes and semicolons are read whatever number of times they are escaped, a backslash is a slash, and what stands
# behind a semicolon is no part of the name.
cdef inline size_t dot_segments(const char *path, size_t n) noexcept nogil:
    cdef size_t i = 0, size = 0, count = 0, step = 1
    cdef bint dots = True, parameters = False
    cdef int c
    while True:
        c = read_octet(path, n, i, &step) if i < n else 47
        if c == 47 or c == 92:
            count += dots and 1 <= size <= 2
            if i >= n:
                return count
            size, dots, parameters = 0, True, False
        elif c == 59:
            parameters = True
        elif not parameters:
            size += 1
            dots = dots and c == 46
        i += step


cdef inline int read_octet(const char *path, size_t n, size_t i, size_t *step) noexcept nogil:
    """The octet at `i`, of an escape what it stands for when the path is decoded until nothing is left to decode."""
    cdef size_t j = i + 1
    cdef int high, low
    step[0] = 1
    if path[i] != 37:
        return <unsigned char>path[i]
    while j + 1 < n and path[j] == 50 and path[j + 1] == 53:
        j += 2
    if j + 1 >= n:
        return 37
    high, low = hex_digit(path[j]), hex_digit(path[j + 1])
    if high < 0 or low < 0:
        return 37
    step[0] = j + 2 - i
    return high << 4 | low


cdef inline int hex_digit(char c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    return (c | 32) - 87 if 97 <= c | 32 <= 102 else -1
