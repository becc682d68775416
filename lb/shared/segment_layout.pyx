"""What follows from how much the shared segment is to hold: see segment_layout.pxd."""

import os

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memcpy

from lb.shared.segment_words cimport SERIES_DIGEST, SERIES_SIZE

from lb.errors import TidegateError

# Far above any real set of endpoints or series; keeps every size below well inside 64 bits.
cdef enum:
    MAX_CAPACITY = 1 << 20
    MAX_MODELS = 1 << 16
cdef uint64_t MAX_CACHE_SIZE = <uint64_t> 1 << 46


cdef inline uint64_t pages(uint64_t size) noexcept nogil:
    return (size + TG_PAGE - 1) // TG_PAGE * TG_PAGE


cdef inline bint is_sets(n) except -1:
    """Whether a table may have so many sets: a power of two."""
    return 1 <= n <= MAX_CAPACITY and not n & (n - 1)


cdef inline bint is_models(n) except -1:
    return n <= MAX_MODELS and is_sets(n)


cdef void place(tg_header *header) noexcept nogil:
    """Fill in all offsets, by the numbers in it. Columns and stripes start on pages of their own."""
    cdef uint64_t workers = header.workers
    cdef uint64_t endpoints = header.endpoint_capacity
    header.endpoints_offset = pages(sizeof(tg_header))
    header.inflight_offset = header.endpoints_offset + pages(endpoints * sizeof(tg_endpoint))
    header.inflight_stride = pages(endpoints * sizeof(int32_t))
    header.outstanding_offset = header.inflight_offset + (workers + 1) * header.inflight_stride
    header.series_offset = header.outstanding_offset + (workers + 1) * header.inflight_stride
    header.series_stride = pages(
        (<uint64_t> header.series_capacity + header.models) * SERIES_SIZE * sizeof(uint64_t))
    header.buckets_offset = header.series_offset + workers * header.series_stride
    header.affinity_offset = header.buckets_offset + pages(
        sizeof(tg_bucket_head) + header.bucket_sets * sizeof(tg_bucket_set))
    header.sessions_offset = header.affinity_offset + pages(
        sizeof(tg_affinity_head) + header.sequence_sets * sizeof(tg_affinity_set))
    header.costs_offset = header.sessions_offset + pages(
        sizeof(tg_affinity_head) + header.session_sets * sizeof(tg_affinity_set))
    header.sources_offset = header.costs_offset + pages(sizeof(tg_cost_head) + header.cost_sets * sizeof(tg_cost_set))
    header.source_counts_offset = header.sources_offset + pages(
        sizeof(tg_source_head) + header.source_sets * sizeof(tg_source_set))
    header.source_counts_stride = pages(<uint64_t> header.source_sets * TG_SOURCE_STRIDE * sizeof(uint32_t))
    header.models_offset = header.source_counts_offset + workers * header.source_counts_stride
    header.quotas_offset = header.models_offset + pages(
        sizeof(tg_model_head) + header.models * (<uint64_t> TG_MODEL_SLOTS * sizeof(uint64_t) + TG_MODEL_NAME))
    header.sticks_offset = header.quotas_offset + pages(
        sizeof(tg_quota_head) + header.quota_sets * (sizeof(tg_quota_set) + TG_QUOTA_WAYS * sizeof(tg_quota)))
    header.stick_counts_offset = header.sticks_offset + pages(
        sizeof(tg_stick_head) + header.stick_sets * (sizeof(tg_stick_set) + TG_STICK_WAYS * sizeof(tg_stick)))
    header.stick_counts_stride = pages(<uint64_t> header.stick_sets * TG_STICK_WAYS * sizeof(uint32_t))
    header.cache_offset = header.stick_counts_offset + workers * header.stick_counts_stride
    header.cache_size = pages(header.cache_size)
    header.size = header.cache_offset + header.cache_size


cdef int lay_out(tg_header *header, workers, endpoint_capacity, series_capacity, cache_size, sets) except -1:
    if not 1 <= workers <= TG_MAX_WORKERS:
        raise ValueError(f"workers must be 1 to {TG_MAX_WORKERS}, not {workers}")
    if not 1 <= endpoint_capacity <= MAX_CAPACITY or not 1 <= series_capacity <= MAX_CAPACITY:
        raise ValueError(f"capacities must be 1 to {MAX_CAPACITY}")
    if not 0 <= cache_size <= MAX_CACHE_SIZE:
        raise ValueError(f"cache_size must be 0 to {MAX_CACHE_SIZE}")
    for name, number in sets.items():
        if not is_sets(number):
            raise ValueError(f"{name} must be a power of two, at most {MAX_CAPACITY}")
    if not is_models(sets["models"]):
        raise ValueError(f"models must be a power of two, at most {MAX_MODELS}")
    header.magic = TG_MAGIC
    header.version = TG_LAYOUT_VERSION
    header.series_digest = SERIES_DIGEST
    header.workers = workers
    header.endpoint_capacity = endpoint_capacity
    header.series_capacity = series_capacity
    header.cache_size = cache_size
    header.bucket_sets = sets["bucket_sets"]
    header.sequence_sets = sets["sequence_sets"]
    header.session_sets = sets["session_sets"]
    header.cost_sets = sets["cost_sets"]
    header.source_sets = sets["source_sets"]
    header.models = sets["models"]
    header.quota_sets = sets["quota_sets"]
    header.stick_sets = sets["stick_sets"]
    place(header)
    draw(header.cache_secret, sizeof(header.cache_secret))
    draw(header.bucket_secret, sizeof(header.bucket_secret))
    draw(header.affinity_secret, sizeof(header.affinity_secret))
    draw(header.cost_secret, sizeof(header.cost_secret))
    draw(header.source_secret, sizeof(header.source_secret))
    draw(header.model_secret, sizeof(header.model_secret))
    draw(header.quota_secret, sizeof(header.quota_secret))
    draw(header.stick_secret, sizeof(header.stick_secret))
    return 0


cdef int draw(unsigned char *secret, size_t n) except -1:
    cdef bytes random = os.urandom(n)
    memcpy(secret, <const char *> random, n)
    return 0


cdef int check_layout(const tg_header *header, uint64_t size, fd) except -1:
    cdef tg_header expected
    if header.magic != TG_MAGIC:
        raise TidegateError(f"descriptor {fd} is not a shared segment: wrong magic")
    if header.version != TG_LAYOUT_VERSION:
        raise TidegateError(f"shared segment has layout {header.version}, this program has {TG_LAYOUT_VERSION}")
    if header.series_digest != SERIES_DIGEST:
        raise TidegateError("shared segment has series of other words than this program; restart the daemon")
    if (
        not 1 <= header.workers <= TG_MAX_WORKERS
        or not 1 <= header.endpoint_capacity <= MAX_CAPACITY
        or not 1 <= header.series_capacity <= MAX_CAPACITY
        or header.cache_size > MAX_CACHE_SIZE
        or not is_sets(header.bucket_sets)
        or not is_sets(header.sequence_sets)
        or not is_sets(header.session_sets)
        or not is_sets(header.cost_sets)
        or not is_sets(header.source_sets)
        or not is_models(header.models)
        or not is_sets(header.quota_sets)
        or not is_sets(header.stick_sets)
    ):
        raise TidegateError("shared segment has an impossible header")
    memcpy(&expected, header, sizeof(expected))
    place(&expected)
    # Field by field: the padding of a struct is not ours to compare.
    if (
        expected.endpoints_offset != header.endpoints_offset
        or expected.inflight_offset != header.inflight_offset
        or expected.inflight_stride != header.inflight_stride
        or expected.outstanding_offset != header.outstanding_offset
        or expected.series_offset != header.series_offset
        or expected.series_stride != header.series_stride
        or expected.buckets_offset != header.buckets_offset
        or expected.affinity_offset != header.affinity_offset
        or expected.sessions_offset != header.sessions_offset
        or expected.costs_offset != header.costs_offset
        or expected.sources_offset != header.sources_offset
        or expected.source_counts_offset != header.source_counts_offset
        or expected.source_counts_stride != header.source_counts_stride
        or expected.models_offset != header.models_offset
        or expected.quotas_offset != header.quotas_offset
        or expected.sticks_offset != header.sticks_offset
        or expected.stick_counts_offset != header.stick_counts_offset
        or expected.stick_counts_stride != header.stick_counts_stride
        or expected.cache_offset != header.cache_offset
        or expected.cache_size != header.cache_size
        or expected.size != header.size
        or header.size != size
    ):
        raise TidegateError(f"shared segment of {size} bytes does not match its header")
    return 0
