/* Layout of the shared segment (design.md section 4): one memfd, created by the master, mapped by every worker.
 *
 * Fixed offsets, C11 atomics, one writer per word wherever that is possible:
 *   header      written once by the master
 *   endpoints   identity and control words written by the master, load words by the workers
 *   in-flight   one column per worker, so that a dead worker's column can be cleared and nothing leaks; one more, the
 *               master's, for what dead workers had until the endpoints must have noticed
 *   outstanding columns as those of in-flight: what the requests there cost, in pools that weigh them (lb/upstream/load/cost)
 *   series      one stripe per worker, plain counters with a single writer, summed by the master at scrape time; their
 *               words are declared in lb/shared/words.py
 *   buckets     rate limits: sets of token buckets, written by every worker (lb/shared/buckets)
 *   sources     limits per source: sets of networks, written by every worker under a lock of the set, and a column of counts
 *               per worker, so that a dead worker's column can be cleared (lb/shared/source_counts)
 *   quotas      sets of clients with what each has used in the window that runs, written by every worker; a client gets its
 *               place under a lock of the set (lb/shared/quotas)
 *   affinity    tables: sets of keys with the endpoint that each belongs to, written by every worker (lb/shared/affinity_table):
 *               those of sequences, and apart from them, as they come in floods, those of learned sessions
 *   models      names of models and the series of each, which lie behind the others in every stripe (lb/shared/model_table)
 *   costs       sets of models with the work that a unit of each takes, written by every worker (lb/shared/costs)
 *   cache       the result cache; its inner layout belongs to lb/cache
 */
#ifndef TIDEGATE_SEGMENT_H
#define TIDEGATE_SEGMENT_H

#include <stdatomic.h>
#include <stdint.h>

#define TG_MAGIC 0x3165746167646954ull /* "Tidgate1" */
#define TG_LAYOUT_VERSION 13u
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
    uint32_t bucket_sets;            /* a power of two */
    uint32_t series_digest;          /* of the words that a series has: SERIES_DIGEST of segment_words.pxd */
    unsigned char bucket_secret[16]; /* keys the hash that places a bucket: nobody outside can aim at another's set */
    uint64_t affinity_offset;
    uint32_t sequence_sets;     /* a power of two */
    uint32_t session_sets; /* another */
    unsigned char affinity_secret[16]; /* the same for the affinity tables, of both kinds */
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
    uint64_t models_offset;
    uint32_t models; /* that have a series; a power of two */
    uint32_t reserved_models;
    unsigned char model_secret[16]; /* the same for models */
    uint64_t quotas_offset;
    uint32_t quota_sets; /* a power of two */
    uint32_t reserved_quotas;
    unsigned char quota_secret[16]; /* the same for quotas */
    uint64_t sticks_offset;
    uint32_t stick_sets; /* a power of two */
    uint32_t reserved_sticks;
    uint64_t stick_counts_offset;
    uint64_t stick_counts_stride;   /* bytes from one worker's column to the next */
    unsigned char stick_secret[16]; /* the same for stick tables */
} tg_header;

enum tg_health { TG_HEALTH_UNKNOWN = 0, TG_HEALTH_UP = 1, TG_HEALTH_DOWN = 2 };
enum tg_admin { TG_ADMIN_ENABLED = 0, TG_ADMIN_DRAIN = 1, TG_ADMIN_MAINTENANCE = 2 };

/* What the endpoint's own answers say of it (lb/endpoints/ejection_state). One word holds all of a transition, so that a process
 * that dies between two instructions leaves either the old or the new ejection state: the state in the low bits, why it was
 * ejected (enum tg_ejection) from TG_EJECTION_SHIFT on. */
enum tg_ejection_state { TG_STATE_WELL = 0, TG_STATE_EJECTED = 1, TG_STATE_PROBATION = 2, TG_STATE_MASK = 3 };
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

/* Ranges of requests in flight of a load curve (lb/balancing/load_curve). */
#define TG_CURVE_RANGES 24u
#define TG_CURVE_LIMIT 0xffffffu /* the bits of `curve_limit` that hold the limit */

/* One endpoint of one pool: identity, a line of control words, one of latencies, those of prequal, those of the load
 * curve, one of what it reports itself. */
typedef struct {
    char key[128]; /* "pool|address", NUL terminated: for people who look into a dump */
    _Alignas(64) _Atomic uint32_t health; /* enum tg_health */
    _Atomic uint32_t admin;               /* enum tg_admin */
    _Atomic uint32_t weight;              /* 0 takes no new requests */
    _Atomic uint32_t generation;          /* counts reuse of the slot */
    _Atomic uint64_t health_changed_ns;   /* CLOCK_MONOTONIC */
    _Atomic uint32_t held_back;           /* thousandths of its weight that it does not get, and TG_SHARE_…; the master's */
    _Atomic uint32_t ejection_state;            /* enum tg_ejection_state and tg_ejection; by compare-and-swap, in any process */
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
    /* The load curve: time for each request by the number in flight, and what follows (lb/balancing/load_curve). */
    _Alignas(64) _Atomic uint64_t curve_words[TG_CURVE_RANGES];
    _Atomic uint64_t curve_gaps;   /* time between answers */
    _Atomic uint64_t curve_spread; /* how far samples are from the curve, and how many there were */
    _Atomic uint64_t curve_limit;  /* most requests in flight that were found to be of use; 0 = not known */
    _Atomic uint64_t curve_warm_ns; /* CLOCK_MONOTONIC: answers to requests from before that say nothing */
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

/* Affinity: TG_AFFINITY_WAYS keys with the same low bits, the endpoint that each is pinned to, and until when. All zero is an
 * empty set. */
#define TG_AFFINITY_WAYS 8u
typedef struct {
    _Alignas(64) _Atomic uint64_t keys[TG_AFFINITY_WAYS]; /* hash of what is pinned; 0 = free */
    _Atomic uint64_t places[TG_AFFINITY_WAYS];            /* slot, generation and a check of the key: see lb/shared/affinity_table.pyx */
    _Atomic uint64_t until[TG_AFFINITY_WAYS];             /* CLOCK_MONOTONIC ns at which it has been idle for too long */
} tg_affinity_set;

/* The line before the sets. */
typedef struct {
    _Alignas(64) _Atomic uint64_t used; /* anything was ever pinned */
    _Atomic uint64_t opened;
    _Atomic uint64_t evicted; /* entries that made room for others before their time */
    _Atomic uint64_t lost;    /* sequences whose endpoint was gone when they went on */
} tg_affinity_head;

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
    _Atomic uint64_t table_full;           /* connections that were counted by their worker alone: no place, or no lock */
} tg_source_head;

/* Models: slots of an open hash table, each empty (0) or the high bits of a name's hash and the number of its row, plus one;
 * then the names of the rows. Row 0 is that of models which have no room. */
#define TG_MODEL_SLOTS 4u /* for each row */
#define TG_MODEL_ROW 0xfffffu
#define TG_MODEL_NAME 256u
typedef struct {
    _Alignas(64) _Atomic uint64_t used; /* rows that were taken, row 0 apart */
} tg_model_head;
/* Quotas: TG_QUOTA_WAYS keys with the same low bits, and the lock of their set, in one cache line. All zero is an empty set.
 * A key's place in its set is also that of its record. */
#define TG_QUOTA_WAYS 7u
#define TG_QUOTA_NAME 216u
typedef struct {
    _Alignas(64) _Atomic uint64_t owner;  /* the process that has the lock: worker plus 2, the master 1; 0 = nobody */
    _Atomic uint64_t keys[TG_QUOTA_WAYS]; /* hash of the name; 0 = free */
} tg_quota_set;

typedef struct {
    _Alignas(64) _Atomic uint64_t word; /* the window's beginning and what is used of it: see lb/shared/quotas.pxd */
    _Atomic uint64_t saved;             /* the word as it was stored last, written by the master */
    _Atomic uint64_t span;              /* minutes that its longest window has */
    _Atomic uint64_t limit;             /* what the client may use, as a worker was told last */
    uint32_t name_length;
    uint32_t tag; /* of the quota: TAG of lb/shared/quotas.pyx */
    char name[TG_QUOTA_NAME]; /* quota and client: see lb/shared/quotas.pxd */
} tg_quota;

/* The line before the sets; the records are behind them. */
typedef struct {
    _Alignas(64) _Atomic uint64_t used; /* anything was ever counted */
    _Atomic uint64_t evicted;           /* clients that made room for others before their window's end */
} tg_quota_head;

/* Stick tables: sets as of quotas. A table has a range of consecutive sets, which the master gives it. */
#define TG_STICK_WAYS 7u
#define TG_STICK_KEY 88u
#define TG_STICK_TABLES 32u
#define TG_STICK_COUNTERS 6u
typedef struct {
    _Alignas(64) _Atomic uint64_t owner;  /* the process that has the lock: worker plus 2, the master 1; 0 = nobody */
    _Atomic uint64_t keys[TG_STICK_WAYS]; /* hash of the key; 0 = free */
} tg_stick_set;

/* An entry. Requests that are under way are counted apart, in a column of each worker: see lb/shared/stick_tables.pxd. */
typedef struct {
    _Alignas(64) _Atomic uint64_t used_ns; /* monotonic: when it was tracked last */
    _Atomic uint64_t counters[TG_STICK_COUNTERS];
    _Atomic uint64_t rates[2 * TG_STICK_COUNTERS]; /* of each counter the window that runs, and the one before */
    _Atomic uint64_t gpt0;
    uint32_t length;             /* of the key */
    _Atomic uint32_t generation; /* another one each time that its counters begin anew */
    char key[TG_STICK_KEY];
} tg_stick;

/* The lines before the sets; the records are behind them. */
typedef struct {
    _Alignas(64) _Atomic uint64_t used; /* anything was ever tracked */
    struct {
        _Atomic uint64_t evicted; /* entries that made room for others before they expired */
        _Atomic uint64_t refused; /* keys that got no entry: all of their set were in use */
    } tables[TG_STICK_TABLES];
} tg_stick_head;

/* Single-writer counter: a plain add that another process may read at any time. */
static inline void tg_add(uint64_t *word, uint64_t n) { __atomic_store_n(word, *word + n, __ATOMIC_RELAXED); }
static inline uint64_t tg_get(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }

#endif
