"""Where everything lies in the shared segment: segment.h for Cython, and what follows from the numbers in its header.

segment.h has the layout, design.md section 4 the rules.
"""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "segment.h" nogil:
    enum: TG_PAGE
    const uint64_t TG_MAGIC
    const uint32_t TG_LAYOUT_VERSION
    enum: TG_MAX_WORKERS
    enum: TG_LOAD_RANGES
    enum: TG_CURVE_RANGES
    enum: TG_COST_SHIFT
    enum: TG_COST_ONE
    enum: TG_COST_MOST
    enum: TG_COST_COLUMN
    enum: TG_COST_WAYS
    enum: TG_COST_NAME
    enum tg_health:
        TG_HEALTH_UNKNOWN
        TG_HEALTH_UP
        TG_HEALTH_DOWN
    enum tg_admin:
        TG_ADMIN_ENABLED
        TG_ADMIN_DRAIN
        TG_ADMIN_MAINTENANCE
    enum:
        TG_STATE_WELL
        TG_STATE_EJECTED
        TG_STATE_PROBATION
        TG_STATE_MASK
        TG_EJECTION_CONSECUTIVE_5XX
        TG_EJECTION_CONSECUTIVE_GATEWAY
        TG_EJECTION_PROBATION
        TG_EJECTION_SHIFT
        TG_SHARE_WHOLE
    const uint32_t TG_SHARE_HELD
    const uint32_t TG_SHARE_GROUP
    enum: TG_SHARE_GROUP_SHIFT
    const uint32_t TG_SHARE_PANIC
    ctypedef struct tg_header:
        uint64_t magic
        uint32_t version
        uint32_t workers
        uint32_t endpoint_capacity
        uint32_t series_capacity
        uint64_t endpoints_offset
        uint64_t inflight_offset
        uint64_t inflight_stride
        uint64_t series_offset
        uint64_t series_stride
        uint64_t cache_offset
        uint64_t cache_size
        uint64_t size
        unsigned char cache_secret[32]
        uint64_t buckets_offset
        uint32_t bucket_sets
        uint32_t series_digest
        unsigned char bucket_secret[16]
        uint64_t affinity_offset
        uint32_t sequence_sets
        uint32_t session_sets
        unsigned char affinity_secret[16]
        uint64_t sessions_offset
        uint64_t outstanding_offset
        uint64_t costs_offset
        uint32_t cost_sets
        unsigned char cost_secret[16]
        uint64_t sources_offset
        uint32_t source_sets
        uint64_t source_counts_offset
        uint64_t source_counts_stride
        unsigned char source_secret[16]
        uint64_t models_offset
        uint32_t models
        unsigned char model_secret[16]
        uint64_t quotas_offset
        uint32_t quota_sets
        unsigned char quota_secret[16]
        uint64_t sticks_offset
        uint32_t stick_sets
        uint64_t stick_counts_offset
        uint64_t stick_counts_stride
        unsigned char stick_secret[16]
    enum: TG_BUCKET_WAYS
    enum: TG_AFFINITY_WAYS
    enum: TG_SOURCE_WAYS
    enum: TG_SOURCE_STRIDE
    enum: TG_MODEL_SLOTS
    enum: TG_MODEL_ROW
    enum: TG_MODEL_NAME
    enum: TG_QUOTA_WAYS
    enum: TG_QUOTA_NAME
    enum: TG_STICK_WAYS
    enum: TG_STICK_KEY
    enum: TG_STICK_TABLES
    enum: TG_STICK_COUNTERS
    const uint64_t TG_CURVE_LIMIT
    # The words are _Atomic in C: read and write them only through lb.shared.atomics.
    ctypedef struct tg_bucket_set:
        uint64_t keys[8]
        uint64_t times[8]
    ctypedef struct tg_bucket_head:
        uint64_t evicted
    ctypedef struct tg_affinity_set:
        uint64_t keys[8]
        uint64_t places[8]
        uint64_t until[8]
    ctypedef struct tg_affinity_head:
        uint64_t used
        uint64_t opened
        uint64_t evicted
        uint64_t lost
    ctypedef struct tg_cost:
        uint64_t key
        uint64_t used_ns
        uint64_t busy_ns
        uint64_t units
        uint64_t mean
        uint64_t samples
        char name[208]
    ctypedef struct tg_cost_set:
        tg_cost ways[8]
    ctypedef struct tg_cost_head:
        uint64_t used
        uint64_t evicted
    ctypedef struct tg_source_set:
        uint64_t owner
        uint64_t keys[7]
    ctypedef struct tg_source_head:
        uint64_t used
        uint64_t table_full
    ctypedef struct tg_quota_set:
        uint64_t owner
        uint64_t keys[7]
    ctypedef struct tg_quota:
        uint64_t word
        uint64_t saved
        uint64_t span
        uint64_t limit
        uint32_t name_length
        uint32_t tag
        char name[216]
    ctypedef struct tg_quota_head:
        uint64_t used
        uint64_t evicted
    ctypedef struct tg_stick_set:
        uint64_t owner
        uint64_t keys[7]
    ctypedef struct tg_stick:
        uint64_t used_ns
        uint64_t counters[6]
        uint64_t rates[12]
        uint64_t gpt0
        uint32_t length
        uint32_t generation
        char key[88]
    ctypedef struct tg_stick_losses:
        uint64_t evicted
        uint64_t refused
    ctypedef struct tg_stick_head:
        uint64_t used
        tg_stick_losses tables[32]
    ctypedef struct tg_endpoint:
        char key[128]
        uint32_t health
        uint32_t admin
        uint32_t weight
        uint32_t generation
        uint64_t health_changed_ns
        uint32_t held_back
        uint32_t ejection_state
        uint64_t probation_ns
        uint32_t probation_good
        uint32_t consecutive_5xx
        uint32_t consecutive_gateway
        uint64_t models_unready
        uint64_t latency_ewma_ns
        uint64_t latency_updated_ns
        uint64_t progress_ns
        uint32_t latency_samples
        uint64_t claim
        uint64_t recent_failures
        uint32_t consecutive_errors
        uint32_t ejected_until_s
        uint64_t load_words[16]
        uint64_t curve_words[24]
        uint64_t curve_gaps
        uint64_t curve_spread
        uint64_t curve_limit
        uint64_t curve_warm_ns
        uint64_t report_utilization
        uint64_t report_qps
        uint64_t report_eps
        uint64_t report_updated_ns
        uint64_t report_since_ns
    ctypedef struct tg_model_head:
        uint64_t used
    void tg_add(uint64_t *word, uint64_t n) noexcept
    uint64_t tg_get(const uint64_t *word) noexcept


# Fills in an empty header: the numbers, every offset, and new secrets. `sets` has the numbers of sets of the tables by
# name ("bucket_sets", …), powers of two. ValueError for a number out of range.
cdef int lay_out(tg_header *header, workers, endpoint_capacity, series_capacity, cache_size, sets) except -1
# That a header is one of this program's, and `size` bytes what it needs; else TidegateError, about descriptor `fd`.
cdef int check_layout(const tg_header *header, uint64_t size, fd) except -1
