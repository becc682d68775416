"""The paths of inference requests, and of their results."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memchr, memcmp
from lb.inference.jsontext cimport valid_utf8
from lb.http.grpc.protobuf cimport span

from lb.inference.errors import OipError


cdef inline bint starts(const char *path, size_t n, const char *text, size_t size) noexcept nogil:
    return n >= size and memcmp(path, text, size) == 0


cdef int match_model(const char *path, size_t n, span *model, span *version, span *rest) noexcept nogil:
    """`rest` begins with the slash behind the model, or the version."""
    cdef const char *end
    cdef size_t i = 0
    if not starts(path, n, b"/v2/models/", 11):
        return NO_MATCH
    end = <const char *>memchr(path, 63, n)
    n = (<size_t>(end - path) if end != NULL else n) - 11
    path += 11
    while i < n and path[i] != 47:
        i += 1
    if i == 0:
        return NO_MATCH
    model.data, model.size = path, i
    path += i
    n -= i
    version.data, version.size = path, 0
    if starts(path, n, b"/versions/", 10):
        path += 10
        n -= 10
        i = 0
        while i < n and 48 <= path[i] <= 57:
            i += 1
        if i == 0:
            return NO_MATCH
        version.data, version.size = path, i
        path += i
        n -= i
    rest.data, rest.size = path, n
    # A name that is not plain ASCII needs the check of decode_model too.
    for i in range(model.size):
        if model.data[i] == 37 or <unsigned char>model.data[i] >= 128:
            return MATCH_ESCAPED
    return MATCH


cdef int match_infer(const char *path, size_t n, span *model, span *version) noexcept nogil:
    cdef span rest
    cdef int matched = match_model(path, n, model, version, &rest)
    return matched if matched and rest.size == 6 and memcmp(rest.data, b"/infer", 6) == 0 else NO_MATCH


cdef int match_result(const char *path, size_t n, span *model, span *version, span *token) noexcept nogil:
    cdef span rest
    cdef int matched = match_model(path, n, model, version, &rest)
    if matched == NO_MATCH or not starts(rest.data, rest.size, b"/results/", 9):
        return NO_MATCH
    token.data, token.size = rest.data + 9, rest.size - 9
    return matched


cdef int hex_digit(char c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    if 97 <= (c | 32) <= 102:
        return (c | 32) - 87
    return -1


cdef bytes decode_model(const span *model):
    cdef bytes text = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>model.size)       # as long as it gets
    cdef char *name = PyBytes_AS_STRING(text)
    cdef size_t i = 0, n = 0
    cdef int high, low
    while i < model.size:
        if model.data[i] != 37:
            name[n] = model.data[i]
            n += 1
            i += 1
            continue
        high = hex_digit(model.data[i + 1]) if i + 2 < model.size else -1
        low = hex_digit(model.data[i + 2]) if i + 2 < model.size else -1
        if high < 0 or low < 0:
            raise OipError("the model's name in the path is not percent-encoded correctly")
        name[n] = <char>(high << 4 | low)
        n += 1
        i += 3
    result = PyBytes_FromStringAndSize(name, <Py_ssize_t>n)
    if not valid_utf8(result, <size_t>len(result)):
        raise OipError("the model's name in the path is not UTF-8")
    return result
