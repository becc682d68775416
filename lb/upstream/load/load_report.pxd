"""What endpoints report of their load with their answers: ORCA, as gRPC (gRFC A51) and Envoy read it.

A header or trailer `endpoint-load-metrics-bin` is an `xds.data.orca.v3.OrcaLoadReport` in base64; one called
`endpoint-load-metrics` is a word, then the report: `BIN` the same, `JSON {"cpu_utilization": 0.3}`, or `TEXT
cpu_utilization=0.3, rps_fractional=12`. Whatever cannot be right is no report.

The binary form and the text are read in place, without an object; JSON, which few servers send, is read by orjson.
"""

from libc.stdint cimport uint64_t
from lb.http.head cimport Field
from lb.endpoints.set cimport EndpointSet


cdef enum:
    REPORT_NONE = 0
    REPORT_BINARY
    REPORT_NAMED                      # the form is its first word
    REPORT_MOST = 4096                # bytes of a report that is read


cdef struct tg_load:
    double utilization                # of the application if it says so, else of the CPU; 0 = not said
    double qps
    double eps
    # Named metrics that Prequal's probes read; below 0 = not said.
    double rif                        # requests in flight
    double latency_ms                 # what a request takes with so many in flight


# REPORT_… by the name of a field, in any case.
cdef int report_kind(const char *name, size_t n) noexcept nogil
# Whether the value is a report of that kind, and what it says: a utilization or requests in flight.
cdef bint read_report(int kind, const char *value, size_t n, tg_load *load) noexcept
# The last report with a utilization among the fields becomes that of the endpoint.
cdef void take_report(const Field *fields, int count, EndpointSet endpoints, int index, uint64_t now) noexcept
