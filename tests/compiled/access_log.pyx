"""Records of the access log, written from Python."""

from libc.string cimport memcpy
from lb.telemetry.accesslog cimport A_TEXTS, AccessLog, set_explanation, set_text, tg_access, text_name, wall_ns


def write_sample(AccessLog log not None, bytes trace_id=b"", bytes span_id=b"", bytes parent_id=b"", int flags=0,
                 int status=200, int grpc_status=-1, int version=11, int tls=0, dict texts=None,
                 bytes explanation=None):
    """Put a record into the ring: False when there was no room. `texts` are by their JSON names."""
    cdef tg_access *record = log.begin()
    cdef int which
    cdef bytes text
    if record == NULL:
        return False
    if len(trace_id) > 16 or len(span_id) > 8 or len(parent_id) > 8:
        raise ValueError("an id is too long")
    memcpy(record.trace_id, <const char *>trace_id, <size_t>len(trace_id))
    memcpy(record.span_id, <const char *>span_id, <size_t>len(span_id))
    memcpy(record.parent_id, <const char *>parent_id, <size_t>len(parent_id))
    record.wall_ns = wall_ns()
    record.total_ns = 4_000_000
    record.wait_ns = 1_000_000
    record.connect_ns = 500_000
    record.upstream_ns = 2_000_000
    record.transfer_ns = 1_000_000
    record.trace_flags = <unsigned short>flags
    record.status = <unsigned short>status
    record.grpc_status = <short>grpc_status
    record.version = <unsigned short>version
    record.tls = <unsigned short>tls
    record.attempts = 1
    for which in range(A_TEXTS):
        text = (texts or {}).get(text_name(which).decode("ascii"), "").encode("latin-1")
        set_text(record, which, <const char *>text, <size_t>len(text))
    if explanation is not None:
        set_explanation(record, <const char *>explanation, <size_t>len(explanation))
    log.commit()
    return True
