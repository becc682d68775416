"""Load reports of endpoints: see load_report.pxd."""

from collections import namedtuple

import orjson
from cpython.exc cimport PyErr_Clear, PyErr_Occurred
from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp, memcpy
from lb.http.head cimport Field, same_name
from lb.http.grpc.protobuf cimport (
    WIRE_BYTES, WIRE_FIXED64, WIRE_VARINT, cursor, field, next_field, span, start_cursor,
)
from lb.endpoints.set cimport EndpointSet

cdef extern from "Python.h":
    # Of any locale, and no object is made unless the text is no number.
    double PyOS_string_to_double(const char *text, char **end, void *overflow)

cdef enum:
    NAME = 21                         # length of "endpoint-load-metrics"
    # Fields of OrcaLoadReport.
    CPU_UTILIZATION = 1
    RPS = 3                           # a whole number, before there was the next
    RPS_FRACTIONAL = 6
    EPS = 7
    NAMED_METRICS = 8                 # a map: messages of a name (1) and a double (2)
    APPLICATION_UTILIZATION = 9
    # Places of named metrics, behind the fields.
    RIF = 10
    LATENCY_MS
    VALUES
    LONGEST_NUMBER = 64

# More than anything that is measured.
cdef double MOST = 1e18
cdef double UNSAID = -1.0


cdef struct known:
    const char *name
    int at

# Their names in text, and in the JSON form of Protocol Buffers.
cdef known NAMES[9]
NAMES[0] = known("cpu_utilization", CPU_UTILIZATION)
NAMES[1] = known("cpuUtilization", CPU_UTILIZATION)
NAMES[2] = known("rps", RPS)
NAMES[3] = known("rps_fractional", RPS_FRACTIONAL)
NAMES[4] = known("rpsFractional", RPS_FRACTIONAL)
NAMES[5] = known("eps", EPS)
NAMES[6] = known("application_utilization", APPLICATION_UTILIZATION)
NAMES[7] = known("applicationUtilization", APPLICATION_UTILIZATION)
NAMES[8] = known(NULL, 0)
cdef known METRICS[3]
METRICS[0] = known("rif", RIF)
METRICS[1] = known("latency_ms", LATENCY_MS)
METRICS[2] = known(NULL, 0)


cdef int place(const known *names, const char *name, size_t n) noexcept nogil:
    """Where a value of that name belongs; 0: it is none of ours."""
    cdef const char *one
    while names.name != NULL:
        one = names.name
        if memcmp_text(one, name, n):
            return names.at
        names += 1
    return 0


cdef inline bint memcmp_text(const char *text, const char *data, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if text[i] == 0 or text[i] != data[i]:
            return False
    return text[n] == 0


cdef int report_kind(const char *name, size_t n) noexcept nogil:
    if n == NAME and same_name(name, n, b"endpoint-load-metrics"):
        return REPORT_NAMED
    if n == NAME + 4 and same_name(name, n, b"endpoint-load-metrics-bin"):
        return REPORT_BINARY
    return REPORT_NONE


cdef void take_report(const Field *fields, int count, EndpointSet endpoints, int index, uint64_t now) noexcept:
    cdef tg_load load
    cdef int i, kind
    for i in range(count - 1, -1, -1):
        kind = report_kind(fields[i].name, fields[i].name_length)
        if kind and read_report(kind, fields[i].value, fields[i].value_length, &load) and load.utilization > 0.0:
            endpoints.set_report(index, load.utilization, load.qps, load.eps, now)
            return


cdef inline bint begins(const char *value, size_t n, const char *word) noexcept nogil:
    return n > 5 and memcmp(value, word, 5) == 0


cdef bint read_report(int kind, const char *value, size_t n, tg_load *load) noexcept:
    cdef double values[VALUES]
    cdef double *at = values
    cdef bint read
    cdef int i
    if n == 0 or n > REPORT_MOST:
        return False
    for i in range(VALUES):
        values[i] = 0.0
    values[RIF] = values[LATENCY_MS] = UNSAID
    if kind == REPORT_BINARY:
        read = read_base64(value, n, at)
    elif n > 4 and memcmp(value, b"BIN ", 4) == 0:
        read = read_base64(value + 4, n - 4, at)
    elif begins(value, n, b"TEXT "):
        read = read_text(value + 5, n - 5, at)
    elif begins(value, n, b"JSON "):
        read = read_json(value[5:n], at)
    else:
        return False
    if not read:
        return False
    for i in range(RIF):
        if not 0.0 <= values[i] <= MOST:      # NaN, too
            return False
    for i in range(RIF, VALUES):
        if values[i] != UNSAID and not 0.0 <= values[i] <= MOST:
            return False
    load.utilization = values[APPLICATION_UTILIZATION]
    if load.utilization == 0.0:
        load.utilization = values[CPU_UTILIZATION]
    load.qps = values[RPS_FRACTIONAL] if values[RPS_FRACTIONAL] > 0.0 else values[RPS]
    load.eps = values[EPS]
    load.rif = values[RIF]
    load.latency_ms = values[LATENCY_MS]
    return load.utilization > 0.0 or load.rif >= 0.0


# Base64, with or without its padding, as gRPC sends it; of several values joined by commas the last.

cdef inline int sextet(char c) noexcept nogil:
    if c'A' <= c <= c'Z':
        return c - c'A'
    if c'a' <= c <= c'z':
        return c - c'a' + 26
    if c'0' <= c <= c'9':
        return c - c'0' + 52
    if c == c'+':
        return 62
    return 63 if c == c'/' else -1


cdef inline bint blank(char c) noexcept nogil:
    return c == c' ' or c == c'\t'


cdef bint read_base64(const char *text, size_t n, double *values) noexcept nogil:
    cdef char message[REPORT_MOST]
    cdef size_t size = 0, start = n
    cdef unsigned int bits = 0
    cdef int count = 0, six
    while start and text[start - 1] != c',':
        start -= 1
    while start < n and blank(text[start]):
        start += 1
    while n > start and blank(text[n - 1]):
        n -= 1
    for _ in range(2):
        if n > start and text[n - 1] == c'=':
            n -= 1
    if n == start or (n - start) % 4 == 1:
        return False
    while start < n:
        six = sextet(text[start])
        if six < 0:
            return False
        bits = bits << 6 | <unsigned int>six
        count += 6
        if count >= 8:
            count -= 8
            message[size] = <char>(bits >> count & 0xFF)
            size += 1
        start += 1
    return read_binary(message, size, values)


cdef bint read_binary(const char *message, size_t size, double *values) noexcept nogil:
    cdef cursor at
    cdef field f
    cdef int found
    start_cursor(&at, message, size)
    while True:
        found = next_field(&at, &f)
        if found <= 0:
            return found == 0
        if f.number == RPS and f.wire == WIRE_VARINT:
            values[RPS] = <double>f.value
        elif f.number == NAMED_METRICS and f.wire == WIRE_BYTES:
            if not read_metric(&f.bytes, values):
                return False
        elif f.wire == WIRE_FIXED64 and (f.number == CPU_UTILIZATION or f.number == RPS_FRACTIONAL
                                         or f.number == EPS or f.number == APPLICATION_UTILIZATION):
            memcpy(&values[f.number], &f.value, sizeof(double))


cdef bint read_metric(const span *entry, double *values) noexcept nogil:
    cdef cursor at
    cdef field f
    cdef double value = 0.0
    cdef int found, name = 0
    start_cursor(&at, entry.data, entry.size)
    while True:
        found = next_field(&at, &f)
        if found < 0:
            return False
        if found == 0:
            break
        if f.number == 1 and f.wire == WIRE_BYTES:
            name = place(METRICS, f.bytes.data, f.bytes.size)
        elif f.number == 2 and f.wire == WIRE_FIXED64:
            memcpy(&value, &f.value, sizeof(double))
    if name:
        values[name] = value
    return True


# Pairs with commas between them.

cdef bint read_text(const char *text, size_t n, double *values) noexcept:
    cdef const char *end = text + n
    cdef const char *comma
    cdef const char *equals
    cdef const char *last
    cdef int at
    while True:
        comma = <const char *>memchr(text, c',', end - text)
        last = end if comma == NULL else comma
        while text < last and blank(text[0]):
            text += 1
        equals = <const char *>memchr(text, c'=', last - text)
        if equals == NULL:
            return False
        at = place_of_text(text, equals)
        if at and not read_number(equals + 1, last, &values[at]):
            return False
        if comma == NULL:
            return True
        text = comma + 1


cdef int place_of_text(const char *name, const char *end) noexcept nogil:
    while end > name and blank((end - 1)[0]):
        end -= 1
    if end - name > 14 and memcmp(name, b"named_metrics.", 14) == 0:
        return place(METRICS, name + 14, end - name - 14)
    return place(NAMES, name, end - name)


cdef bint read_number(const char *text, const char *end, double *value) noexcept:
    cdef char copy[LONGEST_NUMBER + 1]
    cdef char *rest = NULL
    cdef size_t n
    while text < end and blank(text[0]):
        text += 1
    while end > text and blank((end - 1)[0]):
        end -= 1
    n = end - text
    if n == 0 or n > LONGEST_NUMBER or not (c'0' <= text[0] <= c'9' or text[0] == c'.' or text[0] == c'+'):
        return False                          # what is below zero, or no number, is no report
    memcpy(copy, text, n)
    copy[n] = 0
    value[0] = PyOS_string_to_double(copy, &rest, NULL)
    if value[0] == -1.0 and PyErr_Occurred() != NULL:
        PyErr_Clear()
        return False
    return rest == copy + n


# JSON.

cdef bint read_json(bytes text, double *values) noexcept:
    try:
        made = orjson.loads(text)
        if not isinstance(made, dict):
            return False
        set_values(made, NAMES, values)
        for name in ("named_metrics", "namedMetrics"):
            metrics = made.get(name)
            if isinstance(metrics, dict):
                set_values(metrics, METRICS, values)
        return True
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError):
        return False


cdef int set_values(dict pairs, const known *names, double *values) except -1:
    while names.name != NULL:
        value = pairs.get(names.name.decode())
        if value is not None:
            values[names.at] = float(value)
        elif names.name.decode() in pairs:
            raise ValueError("null is no number")
        names += 1
    return 0


LoadReport = namedtuple("LoadReport", ["utilization", "qps", "eps", "rif", "latency_ms"])
LoadReport.__doc__ = """What a report says: a share, requests/s, errors/s, requests, ms; -1: not said."""


def parse(bytes name, bytes value):
    """The LoadReport in the field, or None when it is no load report."""
    cdef tg_load load
    cdef int kind = report_kind(name, <size_t>len(name))
    if kind == REPORT_NONE or not read_report(kind, value, <size_t>len(value), &load):
        return None
    return LoadReport(load.utilization, load.qps, load.eps, load.rif, load.latency_ms)
