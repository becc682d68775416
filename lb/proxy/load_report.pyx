"""Load reports of endpoints: see load_report.pxd."""

from binascii import Error as Base64Error
from binascii import a2b_base64

import orjson
from libc.stdint cimport uint64_t
from libc.string cimport memcpy
from lb.core.http1 cimport Field, same_name
from lb.endpoints.set cimport EndpointSet
from lb.inference.protobuf cimport WIRE_FIXED64, WIRE_VARINT, cursor, field, next_field, start_cursor

cdef enum:
    NAME = 21                         # length of "endpoint-load-metrics"
    # Fields of OrcaLoadReport.
    CPU_UTILIZATION = 1
    RPS = 3                           # a whole number, before there was the next
    RPS_FRACTIONAL = 6
    EPS = 7
    APPLICATION_UTILIZATION = 9
    FIELDS = 10

# More than anything that is measured.
cdef double MOST = 1e18

# Their names in text, and in the JSON form of Protocol Buffers.
cdef dict NAMES = {
    "cpu_utilization": CPU_UTILIZATION, "cpuUtilization": CPU_UTILIZATION,
    "rps": RPS,
    "rps_fractional": RPS_FRACTIONAL, "rpsFractional": RPS_FRACTIONAL,
    "eps": EPS,
    "application_utilization": APPLICATION_UTILIZATION, "applicationUtilization": APPLICATION_UTILIZATION,
}


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
        if kind and read_report(kind, fields[i].value, fields[i].value_length, &load):
            endpoints.set_report(index, load.utilization, load.qps, load.eps, now)
            return


cdef bint read_report(int kind, const char *value, size_t n, tg_load *load) noexcept:
    cdef double values[FIELDS]
    cdef double *load_values = values
    cdef bytes text
    cdef int i
    if n == 0 or n > REPORT_MOST:
        return False
    for i in range(FIELDS):
        values[i] = 0.0
    text = value[:n]
    try:
        if kind == REPORT_BINARY:
            if not read_binary(text, load_values):
                return False
        elif text.startswith(b"BIN "):
            if not read_binary(text[4:], load_values):
                return False
        elif text.startswith(b"TEXT "):
            read_text(text[5:].decode(), load_values)
        elif text.startswith(b"JSON "):
            read_json(text[5:], load_values)
        else:
            return False
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError, Base64Error):
        return False
    for i in range(FIELDS):
        if not 0.0 <= values[i] <= MOST:      # NaN, too
            return False
    load.utilization = values[APPLICATION_UTILIZATION]
    if load.utilization == 0.0:
        load.utilization = values[CPU_UTILIZATION]
    load.qps = values[RPS_FRACTIONAL] if values[RPS_FRACTIONAL] > 0.0 else values[RPS]
    load.eps = values[EPS]
    return load.utilization > 0.0


cdef bint read_binary(bytes text, double *values) except -1:
    """Base64 with or without its padding, as gRPC sends it."""
    cdef bytes message = a2b_base64(text.rpartition(b",")[2].strip() + b"==")
    cdef cursor at
    cdef field f
    cdef int found
    start_cursor(&at, <const char *>message, <size_t>len(message))
    while True:
        found = next_field(&at, &f)
        if found <= 0:
            return found == 0
        if f.number == RPS and f.wire == WIRE_VARINT:
            values[RPS] = <double>f.value
        elif f.wire == WIRE_FIXED64 and f.number in (CPU_UTILIZATION, RPS_FRACTIONAL, EPS, APPLICATION_UTILIZATION):
            memcpy(&values[f.number], &f.value, sizeof(double))


cdef int read_text(str text, double *values) except -1:
    for part in text.split(","):
        name, equals, number = part.partition("=")
        if not equals:
            raise ValueError("not a pair")
        set_value(name.strip(), number, values)
    return 0


cdef int read_json(bytes text, double *values) except -1:
    made = orjson.loads(text)
    if not isinstance(made, dict):
        raise ValueError("not an object")
    for name, number in made.items():
        set_value(name, number, values)
    return 0


cdef int set_value(str name, object number, double *values) except -1:
    cdef object at = NAMES.get(name)
    if at is not None:                # others are named metrics, and none of this one's business
        values[<int>at] = float(number)
    return 0


def parse(bytes name, bytes value):
    """(utilization, requests/s, errors/s) of the field, or None when it is no load report."""
    cdef tg_load load
    cdef int kind = report_kind(name, <size_t>len(name))
    if kind == REPORT_NONE or not read_report(kind, value, <size_t>len(value), &load):
        return None
    return load.utilization, load.qps, load.eps
