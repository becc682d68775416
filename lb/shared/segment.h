/* Layout of the shared segment (design.md section 4): one memfd, created by the master, mapped by every worker.
 *
 * Fixed offsets, C11 atomics, one writer per word wherever that is possible:
 *   header      written once by the master
 *   endpoints   identity and control words written by the master, load words by the workers
 *   in-flight   one column per worker, so that a dead worker's column can be cleared and nothing leaks; one more, the
 *               master's, for what dead workers had until the endpoints must have noticed
 *   outstanding columns as those of in-flight: what the requests there cost, in pools that weigh them (lb/upstream/load/cost)
 *   series      one stripe per worker, plain counters with a single writer, summed by the master at scrape time
 *   buckets     rate limits: sets of token buckets, written by every worker (lb/shared/buckets)
 *   sources     limits per source: sets of networks, written by every worker under a lock of the set, and a column of counts
 *               per worker, so that a dead worker's column can be cleared (lb/shared/source_counts)
 *   pins        affinity: sets of keys with the endpoint that each belongs to, written by every worker (lb/shared/affinity_table):
 *               those of sequences, and apart from them, as they come in floods, those of learned sessions
 *   costs       sets of models with the work that a unit of each takes, written by every worker (lb/shared/costs)
 *   cache       the result cache; its inner layout belongs to lb/cache
 */
#ifndef TIDEGATE_SEGMENT_H
#define TIDEGATE_SEGMENT_H

#include <stdatomic.h>
#include <stdint.h>

#define TG_MAGIC 0x3165746167646954ull /* "Tidgate1" */
#define TG_LAYOUT_VERSION 9u
#define TG_MAX_WORKERS 128u
#define TG_CACHE_LINE 64u
#define TG_PAGE 4096u
#define TG_LOAD_RANGES 16u

typedef struct {
    uint64_t magic;
    uint32_t version;
    uint32_t workers;           /* columns and stripes in use */
    uint32_t endpoint_capacity; /* endpoint records, and rows of an in-flight column */
    uint32_t series_capacity;   /* series in a stripe */
    uint64_t endpoints_offset;
    uint64_t inflight_offset;
    uint64_t inflight_stride; /* bytes from one worker's column to the next */
    uint64_t series_offset;
    uint64_t series_stride; /* bytes from one worker's stripe to the next */
    uint64_t cache_offset;
    uint64_t cache_size;
    uint64_t size; /* of the whole segment */
    unsigned char cache_secret[32]; /* keys the digest of cached requests; random per segment */
    uint64_t buckets_offset;
    uint32_t bucket_sets;             /* a power of two */
    uint32_t reserved;
    unsigned char bucket_secret[16]; /* keys the hash that places a bucket: nobody outside can aim at another's set */
    uint64_t pins_offset;
    uint32_t pin_sets;     /* a power of two */
    uint32_t session_sets; /* another */
    unsigned char pin_secret[16]; /* the same for pins, of both kinds */
    uint64_t sessions_offset;
    uint64_t outstanding_offset; /* its columns have the in-flight columns' stride */
    uint64_t costs_offset;
    uint32_t cost_sets; /* a power of two */
    uint32_t reserved_costs;
    unsigned char cost_secret[16]; /* the same for costs */
    uint64_t sources_offset;
    uint32_t source_sets; /* a power of two */
    uint32_t reserved_sources;
    uint64_t source_counts_offset;
    uint64_t source_counts_stride;   /* bytes from one worker's column to the next */
    unsigned char source_secret[16]; /* the same for sources */
} tg_header;

enum tg_health { TG_HEALTH_UNKNOWN = 0, TG_HEALTH_UP = 1, TG_HEALTH_DOWN = 2 };
enum tg_admin { TG_ADMIN_ENABLED = 0, TG_ADMIN_DRAIN = 1, TG_ADMIN_MAINTENANCE = 2 };

/* What the endpoint's own answers say of it (lb/endpoints/ejection_state). One word holds all of a transition, so that a process
 * that dies between two instructions leaves either the old or the new standing: the state in the low bits, why it was
 * ejected (enum tg_ejection) from TG_EJECTION_SHIFT on. */
enum tg_standing { TG_STANDING_WELL = 0, TG_STANDING_EJECTED = 1, TG_STANDING_PROBATION = 2, TG_STANDING_MASK = 3 };
enum tg_ejection {
    TG_EJECTION_NONE = 0,
    TG_EJECTION_CONSECUTIVE_5XX = 1,
    TG_EJECTION_CONSECUTIVE_GATEWAY = 2,
    TG_EJECTION_PROBATION = 3, /* a failure while on probation */
    TG_EJECTION_SUCCESS_RATE = 4,
    TG_EJECTION_FAILURE_PERCENTAGE = 5,
    TG_EJECTION_LATENCY = 6
};
#define TG_EJECTION_SHIFT 8u

/* The whole of a share, in thousandths. In the word `held_back`: the bits of what is held back, those of its group's share
 * of the pool's requests (lb/endpoints/groups), and the bit of a panic. */
#define TG_SHARE_WHOLE 1000u
#define TG_SHARE_HELD 0xffffu
#define TG_SHARE_GROUP_SHIFT 16u
#define TG_SHARE_GROUP 0xfffu
#define TG_SHARE_PANIC 0x80000000u

/* One endpoint of one pool. 448 bytes: identity, a line of control words, one of load words, two of
 * latencies, one of what it reports itself. */
typedef struct {
    char key[128]; /* "pool|address", NUL terminated: for people who look into a dump */
    _Alignas(64) _Atomic uint32_t health; /* enum tg_health */
    _Atomic uint32_t admin;               /* enum tg_admin */
    _Atomic uint32_t weight;              /* 0 takes no new requests */
    _Atomic uint32_t generation;          /* counts reuse of the slot */
    _Atomic uint64_t health_changed_ns;   /* CLOCK_MONOTONIC */
    _Atomic uint32_t held_back;           /* thousandths of its weight that it does not get, and TG_SHARE_…; the master's */
    _Atomic uint32_t standing;            /* enum tg_standing and tg_ejection; by compare-and-swap, in any process */
    _Atomic uint64_t probation_ns;        /* CLOCK_MONOTONIC: since when; the master's */
    _Atomic uint32_t probation_good;      /* good answers on probation */
    _Atomic uint32_t consecutive_5xx;     /* failures in a row; the next two by the workers */
    _Atomic uint32_t consecutive_gateway; /* those of them that count as 502, 503 or 504 */
    _Atomic uint64_t models_unready;      /* a bit for each model of the plan's list that is not ready here */
    _Alignas(64) _Atomic uint64_t latency_ewma_ns; /* bits of a double: at 10^5 samples a second changes are below 1 ns */
    _Atomic uint64_t latency_updated_ns;           /* CLOCK_MONOTONIC; both are written by policies, in any worker */
    _Atomic uint32_t consecutive_errors; /* of datagrams: lb/proxy/udp/pool */
    _Atomic uint32_t ejected_until_s;
    _Atomic uint64_t progress_ns; /* CLOCK_MONOTONIC: when it last answered, or got something to do; by policies, too */
    _Atomic uint32_t latency_samples; /* that the average is of, as far as its policy counts them */
    _Atomic uint64_t claim; /* who gets the next place: CLOCK_MONOTONIC ns until which, its low 7 bits the worker */
    _Atomic uint64_t recent_failures; /* share of recent attempts that failed, and since when: lb/shared/recent_failures */
    /* Latencies by the number of requests that were there, each word of one by itself (lb/balancing/policies/prequal). */
    _Alignas(64) _Atomic uint64_t load_words[TG_LOAD_RANGES];
    _Alignas(64) _Atomic uint64_t report_utilization; /* last load report (ORCA); bits of doubles */
    _Atomic uint64_t report_qps;
    _Atomic uint64_t report_eps;
    _Atomic uint64_t report_updated_ns; /* CLOCK_MONOTONIC; 0 = it never reported */
    _Atomic uint64_t report_since_ns;   /* of the first report since there were none, or none that still counted */
} tg_endpoint;

/* Rate limits: TG_BUCKET_WAYS buckets whose keys have the same low bits. A key finds its bucket in one cache line and
 * charges it in the other. All zero is an empty set. */
#define TG_BUCKET_WAYS 8u
typedef struct {
    _Alignas(64) _Atomic uint64_t keys[TG_BUCKET_WAYS]; /* hash of what is limited; 0 = never used */
    _Atomic uint64_t times[TG_BUCKET_WAYS];             /* CLOCK_MONOTONIC ns at which the bucket is full again */
} tg_bucket_set;

/* The line before the sets. */
typedef struct {
    _Alignas(64) _Atomic uint64_t evicted; /* buckets that made room before they were full again */
} tg_bucket_head;

/* Affinity: TG_PIN_WAYS keys with the same low bits, the endpoint that each is pinned to, and until when. All zero is an
 * empty set. */
#define TG_PIN_WAYS 8u
typedef struct {
    _Alignas(64) _Atomic uint64_t keys[TG_PIN_WAYS]; /* hash of what is pinned; 0 = free */
    _Atomic uint64_t places[TG_PIN_WAYS];            /* slot, generation and a check of the key: see lb/shared/affinity_table.pyx */
    _Atomic uint64_t until[TG_PIN_WAYS];             /* CLOCK_MONOTONIC ns at which it has been idle for too long */
} tg_pin_set;

/* The line before the sets. */
typedef struct {
    _Alignas(64) _Atomic uint64_t used; /* anything was ever pinned */
    _Atomic uint64_t opened;
    _Atomic uint64_t evicted; /* pins that made room for others before their time */
    _Atomic uint64_t lost;    /* sequences whose endpoint was gone when they went on */
} tg_pin_head;

#define TG_QUEUE_FIRSTS 8u
#define TG_QUEUE_MARKS 6u

/* What an average request of its pool costs, as an integer; and the most that one request may, and one worker's requests
 * at one endpoint: so that the sum over all workers and those who died cannot overflow. */
#define TG_COST_SHIFT 8u
#define TG_COST_ONE (1u << TG_COST_SHIFT)
#define TG_COST_MOST (1u << 20u)
#define TG_COST_COLUMN (1u << 22u)

/* What a model's requests take, or those of a whole pool: averages, of which only the ratio counts. All zero is free. */
#define TG_COST_WAYS 8u
#define TG_COST_NAME 208u
typedef struct {
    _Alignas(64) _Atomic uint64_t key; /* hash of the name; 0 = free, 1 = being taken */
    _Atomic uint64_t used_ns;          /* CLOCK_MONOTONIC */
    _Atomic uint64_t busy_ns;          /* bits of a double: an endpoint's time for a request */
    _Atomic uint64_t units;            /* bits of a double: units of a request */
    _Atomic uint64_t mean;             /* of a pool, bits of a double: what a request costs before it is divided by this */
    _Atomic uint64_t samples;
    char name[TG_COST_NAME]; /* "pool|model", or "pool"; NUL terminated */
} tg_cost;

typedef struct {
    tg_cost ways[TG_COST_WAYS];
} tg_cost_set;

/* The line before the sets. */
typedef struct {
    _Alignas(64) _Atomic uint64_t used; /* anything was ever learned */
    _Atomic uint64_t evicted;           /* models that made room for others */
} tg_cost_head;

/* Limits per source: TG_SOURCE_WAYS networks whose keys have the same low bits, and the lock of their set, in one cache
 * line. All zero is an empty set. A network's place in its set is also that of its count in each worker's column. */
#define TG_SOURCE_WAYS 7u
#define TG_SOURCE_STRIDE 8u /* counts of a set in a column */
typedef struct {
    _Alignas(64) _Atomic uint64_t owner;                /* the worker that has the lock, plus one; 0 = nobody */
    _Atomic uint64_t keys[TG_SOURCE_WAYS];              /* hash of listener and network; 0 = never used */
} tg_source_set;

/* The line before the sets. */
typedef struct {
    _Alignas(64) _Atomic uint64_t used; /* anything was ever counted */
    _Atomic uint64_t crowded;           /* connections that were counted by their worker alone: no place, or no lock */
} tg_source_head;

/* Words of a series (a route or an endpoint). Counters only grow; every word has one writer, the stripe's worker. */
enum tg_series_word {
    TG_S_CODE_1XX = 0,
    TG_S_CODE_2XX,
    TG_S_CODE_3XX,
    TG_S_CODE_4XX,
    TG_S_CODE_5XX,
    TG_S_CODE_OTHER,   /* no answer was sent: the client left, or a TCP session */
    TG_S_STARTED,      /* exchanges (or TCP sessions) begun; in flight = started - finished */
    TG_S_FINISHED,
    TG_S_BYTES_IN,     /* from the client (route) or from the endpoint (endpoint) */
    TG_S_BYTES_OUT,
    TG_S_RETRIES,
    TG_S_CONNECT_ERRORS,
    TG_S_RESPONSE_ERRORS, /* reset, garbage, closed mid-answer */
    TG_S_TIMEOUTS,
    TG_S_REJECTED,        /* refused by us: no endpoint, limits */
    TG_S_CACHE_HIT,
    TG_S_CACHE_MISS,
    TG_S_CACHE_STORED,
    TG_S_CACHE_COLLAPSED,
    TG_S_CACHE_BYPASS,
    TG_S_CONNECTIONS,     /* opened */
    TG_S_DURATION_SUM_NS,
    /* A listener has no cache: these words of its series count TLS handshakes, connections that became HTTP/2, and those
     * of them that were ended for a flood of frames. */
    TG_S_TLS_FULL = TG_S_CACHE_HIT,
    TG_S_TLS_RESUMED = TG_S_CACHE_MISS,
    TG_S_TLS_FAILED = TG_S_CACHE_STORED,
    TG_S_HTTP2 = TG_S_CACHE_COLLAPSED,
    TG_S_HTTP2_FLOODED = TG_S_CACHE_BYPASS,
    /* The series of a pool is that of its queue: waiting = started - finished, the time waited is the duration, and these
     * words are where the worker's first for whom any endpoint will do stands in the order of all workers (a state, not a
     * counter), those that gave up as they could not be served in time, those that were shed under a standing overload,
     * and whose client left. Then come TG_QUEUE_FIRSTS states: where the first for each of so many models stands, its low
     * bits being the model's; 0 behind the last. Other states: the time at which somebody came to this worker while nobody
     * waited anywhere, and TG_QUEUE_MARKS keys of the worker's line, so that others can tell how many there come before
     * a request: those at some ranks (UINT64_MAX behind the end), and the last one's. */
    TG_S_QUEUE_HEAD = TG_S_CACHE_HIT,
    TG_S_QUEUE_HOPELESS = TG_S_CACHE_MISS,
    TG_S_QUEUE_SHED = TG_S_CACHE_STORED,
    TG_S_QUEUE_LEFT = TG_S_CACHE_COLLAPSED,
    /* A pool that learns sessions has a series for these: requests that the endpoint of their session answered, those
     * whose session is not known, sessions learned, requests that another endpoint answered, and sessions that their
     * endpoint ended. */
    TG_S_SESSION_HIT = TG_S_CACHE_HIT,
    TG_S_SESSION_UNKNOWN = TG_S_CACHE_MISS,
    TG_S_SESSION_LEARNED = TG_S_CACHE_STORED,
    TG_S_SESSION_FALLBACK = TG_S_CACHE_COLLAPSED,
    TG_S_SESSION_ENDED = TG_S_CACHE_BYPASS,
    TG_S_QUEUE_FIRSTS = TG_S_DURATION_SUM_NS + 1,
    TG_S_QUEUE_BUSY = TG_S_QUEUE_FIRSTS + TG_QUEUE_FIRSTS,
    TG_S_QUEUE_MARKS = TG_S_CODE_1XX,
    /* An endpoint has no cache either: these words count the answers by which its standing is judged. */
    TG_S_JUDGED_GOOD = TG_S_CACHE_HIT,
    TG_S_JUDGED_FAULT = TG_S_CACHE_MISS,
    /* Of a route: retries that the budget forbade; hedges begun, those whose answer was taken, those that were given up or
     * failed, and those that the budget forbade. The claims on a budget (lb/proxy/exchange/budget) are states, not counters: one
     * that is not granted is taken back. */
    TG_S_RETRIES_REFUSED = TG_S_DURATION_SUM_NS + 1,
    TG_S_HEDGES,
    TG_S_HEDGES_WON,
    TG_S_HEDGES_LOST,
    TG_S_HEDGES_REFUSED,
    TG_S_RETRY_CLAIMS,
    TG_S_HEDGE_CLAIMS,
    /* An endpoint has no hedges: probes sent to it, and those without an answer in time, without any, and with one that
     * does not say what is in flight. */
    TG_S_PROBES = TG_S_HEDGES,
    TG_S_PROBES_LATE = TG_S_HEDGES_WON,
    TG_S_PROBES_FAILED = TG_S_HEDGES_LOST,
    TG_S_PROBES_VOID = TG_S_HEDGES_REFUSED,
    /* A listener has no retries: requests that no route took (404, 405, 415), and those that could not be understood. */
    TG_S_UNROUTED = TG_S_RETRIES_REFUSED,
    TG_S_MALFORMED = TG_S_HEDGES,
    TG_S_HISTOGRAM = 32,  /* 24 buckets, not cumulative; bounds in tg_bucket_bounds_us */
    /* Of a route or an endpoint: answers by gRPC status, one word for each of its TG_GRPC_CODES codes; and answers of any
     * protocol that are the server's fault (HTTP 5xx, or a gRPC status that stands for one). */
    TG_S_GRPC = 56,
    TG_S_FAULTS = 73,
    TG_S_WORDS = 80
};
#define TG_BUCKETS 24u
#define TG_GRPC_CODES 17u /* OK to UNAUTHENTICATED */

/* Upper bounds in microseconds of the first 23 buckets; the last is +Inf. */
static const uint32_t tg_bucket_bounds_us[TG_BUCKETS - 1] = {
    100,    250,    500,    1000,   2000,    3000,    5000,    7500,    10000,    15000,    25000,   50000,
    75000, 100000, 150000, 250000, 500000, 1000000, 2500000, 5000000, 10000000, 30000000, 60000000};

static inline unsigned tg_bucket(uint64_t duration_ns) {
    uint64_t us = duration_ns / 1000u;
    unsigned low = 0, high = TG_BUCKETS - 1;
    while (low < high) {
        unsigned middle = (low + high) / 2u;
        if (us <= tg_bucket_bounds_us[middle])
            high = middle;
        else
            low = middle + 1u;
    }
    return low;
}

/* Single-writer counter: a plain add that another process may read at any time. */
static inline void tg_add(uint64_t *word, uint64_t n) { __atomic_store_n(word, *word + n, __ATOMIC_RELAXED); }
static inline uint64_t tg_get(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }

#endif
