"""The access log: records go into a ring in memory; a thread writes them as JSON lines, without the GIL, and hands
those of sampled traces to an exporter."""

from libc.stdint cimport int16_t, int64_t, uint16_t, uint32_t, uint64_t
from lb.net.buffer cimport tg_buffer
from lb.telemetry.log_writer cimport LogWriter


cdef struct tg_access:
    # One exchange or session. Texts are copied and cut at their room; lengths say how much is used.
    int64_t wall_ns                   # CLOCK_REALTIME at the start
    uint64_t total_ns
    uint64_t wait_ns                  # until an endpoint was chosen (body, cache, queue)
    uint64_t upstream_ns              # from there to the answer's first byte
    uint64_t connect_ns               # of which until there was a connection to it
    uint64_t transfer_ns              # from there to its last
    uint64_t bytes_in
    uint64_t bytes_out
    uint16_t status
    int16_t grpc_status               # -1 = none
    uint16_t attempts
    uint16_t port
    uint16_t cache                    # index into CACHE_NAMES
    uint16_t hedge                    # index into HEDGE_NAMES
    uint16_t version                  # of HTTP, as the client spoke it: 10, 11, 20; 0 = not HTTP
    uint16_t tls                      # version on the wire (0x0303 = TLS 1.2, 0x0304 = 1.3); 0 = plain
    uint16_t trace_flags              # of trace_id, which is not all zero where there is a trace
    unsigned char trace_id[16]
    unsigned char span_id[8]
    unsigned char parent_id[8]        # all zero = the trace began here
    char *explanation                 # JSON, from malloc; NULL = none. Freed with the record
    uint32_t explanation_length
    char *fields                      # of the route's log_fields, likewise
    uint32_t fields_length
    uint16_t lengths[13]
    char client[46]
    char method[18]
    char host[128]
    char target[256]
    char listener[48]
    char route[48]
    char pool[48]
    char endpoint[112]
    char reason[32]
    char request_id[128]
    char user_agent[128]
    char model[128]
    char identity[256]


cdef enum:
    A_CLIENT = 0
    A_METHOD
    A_HOST
    A_TARGET
    A_LISTENER
    A_ROUTE
    A_POOL
    A_ENDPOINT
    A_REASON
    A_REQUEST_ID
    A_USER_AGENT
    A_MODEL
    A_IDENTITY
    A_TEXTS = 13                      # how many there are


cdef class AccessLog:
    cdef readonly bint enabled        # the ring takes records: they are written, or exported, or both
    cdef readonly bint writing        # all of them
    cdef public bint hides_queries    # targets go into records without their query, which may hold a key
    cdef object exporter              # takes those of sampled traces; None = nobody does
    cdef list retired                 # exporters that the thread has to close
    cdef LogWriter writer
    cdef tg_access *ring
    cdef uint64_t head                # written by the data path
    cdef uint64_t tail                # written by the thread
    cdef uint64_t handed              # records up to here went to the exporter
    cdef bint stopping
    cdef double give_up_at            # monotonic: when the thread, stopping, waits no longer
    cdef uint64_t full                # records for which the ring had no room
    cdef uint64_t lost                # that were in the ring and could not be written; counted by the thread
    cdef object thread
    cdef readonly str trouble         # why the log takes no records now, "" while it does

    # Room for a record, zeroed; NULL when the log is off or the ring is full (counted).
    cdef tg_access *begin(self) noexcept
    # The record is complete.
    cdef void commit(self) noexcept
    # How much of a request's target goes into records: all of its `n` bytes, or those before the query.
    cdef size_t shown(self, const char *target, size_t n) noexcept nogil
    cdef bint drain(self, uint64_t head) noexcept nogil
    cdef void give_back(self, uint64_t end) noexcept nogil


cdef void set_text(tg_access *record, int which, const char *text, size_t n) noexcept nogil
# Takes a copy; none where memory is out.
cdef void set_explanation(tg_access *record, const char *json, size_t n) noexcept nogil
cdef void set_fields(tg_access *record, const char *json, size_t n) noexcept nogil
cdef void set_object(tg_access *record, int which, str text) noexcept
cdef int64_t wall_ns() noexcept nogil


# How a record of the access log's ring is shown: a line of JSON, or what an exporter of spans gets.

# Where the text `which` (A_*) of a record lies, and how much room it has.
cdef char *room_of(tg_access *record, int which, size_t *room) noexcept nogil
# Its name in a line.
cdef const char *text_name(int which) noexcept nogil
# Appends the record's line. 0, or -1 when memory is out: part of it may be there then.
cdef int format_record(tg_access *record, tg_buffer *out) noexcept nogil
# The record as plain objects: times in ns, ids as bytes (parent_id b"" where the trace began here), texts as str.
cdef dict span_of(tg_access *record)
