"""A pool at work in one worker: its endpoints' state, its policy, and the connections to each endpoint."""

from libc.stdint cimport uint64_t
from lb.balancing.policy cimport Policy
from lb.net.source_key cimport tg_prefixes
from lb.upstream.affinity.cookie cimport EndpointCookie
from lb.upstream.load.cost cimport PoolCosts
from lb.upstream.connections.deferred_release cimport DeferredRelease
from lb.upstream.load.outlier cimport Outlier
from lb.upstream.load.prober cimport Prober
from lb.upstream.marks cimport PoolMarks
from lb.upstream.queue cimport PoolQueue
from lb.shared.model_table cimport PoolModels
from lb.upstream.affinity.sequences cimport Sequences
from lb.upstream.affinity.sessions cimport Sessions
from lb.endpoints.choice cimport Choice
from lb.endpoints.groups cimport Groups
from lb.endpoints.set cimport EndpointSet


cdef enum:
    POOL_HTTP = 0
    POOL_OIP = 1
    POOL_TCP = 2
    POOL_HTTP2 = 3
    POOL_GRPC = 4
    POOL_UDP = 5

cdef enum:
    KEY_NONE = 0
    KEY_HEADER
    KEY_COOKIE
    KEY_QUERY
    KEY_SOURCE
    KEY_MODEL
    # Made of the request as it came, before its route changes it (lb.proxy.routing.text_keys).
    KEY_PATH
    KEY_URI
    KEY_TEXT


cdef enum:
    HEAD_START = 5                    # give-ups at once, of an endpoint that looks stuck


cdef struct tg_slow:
    # An endpoint that was given up: another had to answer instead.
    uint64_t until                    # when it is asked again, unless nobody else can be
    uint64_t alive                    # when it answered last
    int count                         # times in a row


cdef class SlotRelease(DeferredRelease):
    cdef Pool pool
    cdef int index
    cdef int charged


cdef class Pool:
    cdef readonly str name
    cdef readonly int protocol
    cdef readonly EndpointSet endpoints
    cdef readonly Policy policy
    cdef Choice choice
    cdef readonly Groups groups       # None: all endpoints are alike, whatever their priorities and zones
    cdef readonly str policy_type     # its name in the configuration
    cdef readonly PoolQueue queue     # None: nobody waits for an endpoint
    cdef readonly bint on_demand      # it may have no endpoint, and gets one when a request comes
    cdef readonly bint awaits_start   # requests that find no endpoint wait for the start of one
    cdef readonly str trouble         # why no endpoint can be started; None: nothing is known to be wrong
    cdef uint64_t ready_at            # when an endpoint is ready at the earliest (monotonic ns); 0 = unknown
    cdef bint told                    # of the start of its endpoints, which the master runs
    cdef tuple warmths                # per endpoint, where there is a queue: its Warmth
    cdef readonly bint avoids         # endpoints whose recent attempts failed take a part of their turns
    cdef readonly Outlier outlier     # None: endpoints are not judged by their answers
    cdef readonly Prober prober       # None: endpoints are not asked about their load
    # with limits, and over HTTP/2: releases may have to be deferred (lb.upstream.connections.deferred_release)
    cdef bint multiplexed
    cdef readonly tuple channels      # per endpoint: Http1Pool, Http2Channel, or Address (tcp, udp)
    cdef uint64_t **series            # per endpoint: this worker's words
    cdef uint64_t *rotations          # per group: the policy's `rotation`; NULL = there are none
    cdef tg_slow *slow                # per endpoint; NULL = no route hedges
    cdef PoolModels model_series      # None: it has no inferences (tcp, udp)
    cdef readonly int key_kind
    cdef readonly bytes key_name
    cdef readonly int key_depth       # directories of a path that count, where that is the key; 0 = all
    cdef readonly int key_length      # bytes of a path or URI that count, likewise
    cdef public object key_text       # lb.proxy.routing.text_keys.TextKey; None: its key is no text
    cdef frozenset cached_rows        # models whose batches are cached row by row; None: there are none
    cdef public object cache_rules    # lb.cache.rules.PoolRules; None = its answers are not kept
    cdef bytes cache_key              # of its answers in the result cache: no other pool's are found by it
    cdef tg_prefixes prefixes         # of the source, where that is the key
    cdef readonly uint64_t connect_timeout
    cdef readonly uint64_t response_timeout
    cdef readonly uint64_t idle_timeout
    cdef readonly int retries
    cdef readonly int budget_series   # of the segment, which counts for the budgets of retries and hedges; -1 = none
    cdef uint64_t *requests           # the word of it that counts requests, this worker's; NULL = nobody asks for it
    cdef uint64_t budgets_turn_at     # the route's, with the first request from then on
    cdef readonly str send_proxy      # "", v1, v2
    cdef readonly bint send_unique_id
    cdef readonly bint send_checksum
    cdef public PoolMarks marks       # None: attempts go on when their endpoint is marked down
    cdef readonly dict models         # name as UTF-8 -> its bit, of those whose readiness is known; None: of none
    cdef readonly EndpointCookie cookie     # None: it gives none
    cdef readonly Sessions sessions   # None: it learns none
    cdef bint sticky                  # it has one of the two
    cdef readonly PoolCosts costs     # None: a request is a request
    cdef readonly Sequences sequences         # None: a sequence is as good as any request
    cdef public object counts         # ModelCounts of the models that clients ask for; None: model servers count them
    cdef readonly Pool leaving        # the endpoints that the plan no longer names but may have sequences, or None
    cdef public Pool newer            # its form in the last plan that has it, or None: it is that
    cdef object __weakref__

    # The bit of a model, for Choice.models; 0 = its readiness is not known. Only where `models` is not None.
    cdef uint64_t model_bit(self, bytes name) noexcept
    # The endpoint of this address, -1 where it has none.
    cdef int index_at(self, str address) noexcept
    # What a selection goes by that begins now, to be filled in and passed to one of the next three. There is one value,
    # which is used again: a selection is over before the next one begins.
    cdef Choice new_choice(self, uint64_t now, uint64_t key)
    # Selects an endpoint and counts one more in flight there, which adds `choice.charged` to its load (`release` is
    # told the same): its index, TAKEN_NOBODY when none takes the request, or TAKEN_FULL when those that do have no
    # room, or others wait for it.
    cdef int acquire(self, Choice choice) noexcept
    # The same for a request of a sequence, which only this endpoint will do for: it, or TAKEN_…
    cdef int acquire_in_sequence(self, int index, Choice choice) noexcept
    # The same for one whose cookie, or session, names this endpoint: it, TAKEN_NOBODY when it serves nobody, or
    # TAKEN_FULL.
    cdef int acquire_sticky(self, int index, Choice choice) noexcept
    # Whether an endpoint takes requests, if not now.
    cdef bint takes_requests(self) noexcept
    # Nanoseconds after which a client may come again that has found no endpoint, as none has started; 0 = unknown.
    cdef uint64_t again_after(self, uint64_t now) noexcept
    # The same, or one is started when a request comes, and nothing is known to be wrong with that.
    cdef bint welcomes_requests(self) noexcept
    # Steps of `acquire`: among those of all groups; among those of the group that is entered, TAKEN_AGAIN when there is
    # nobody but the excluded one; of whichever group has somebody; and with endpoints on probation as a last resort.
    cdef int choose(self, Choice choice) noexcept
    cdef int choose_in(self, int group, Choice choice) noexcept
    cdef int choose_by_group(self, Choice choice) noexcept
    cdef int choose_elsewhere(self, int drawn, int found, Choice choice) noexcept
    cdef int choose_on_probation(self, Choice choice) noexcept
    # Whether endpoints may have no room, and requests wait for it.
    cdef bint waits_for_room(self) noexcept
    cdef bint take(self, int index, Choice choice) noexcept
    # An attempt at endpoint `index` that began at `started` is over: what that says of it (lb.upstream.load.outlier),
    # for the turns that it gets and for its ejection state.
    cdef void judge(self, int index, int verdict, uint64_t started, uint64_t now) noexcept
    # What the policy chooses, past those that fail.
    cdef int look(self, Choice choice) except -2
    # Whether a request should rather wait for another endpoint, which has no room, than go to one that fails.
    cdef bint rather_waits(self, int index, Choice choice) noexcept
    cdef int pick_instead(self, int slow, Choice choice) noexcept
    # One less in flight: after `waited` ns the attempt was stopped, as another endpoint had answered. Its latency is
    # unknown, and no policy is told; but for as long again other endpoints are preferred, twice as long at each
    # give-up, until this one has answered.
    cdef void give_up(self, int index, uint64_t now, uint64_t waited, int charged) noexcept
    # Time since the endpoint's last answer, ns, as a request knows that has waited `waited` ns; 0: not so long.
    cdef uint64_t silence(self, int index, uint64_t now, uint64_t waited) noexcept
    # Give-ups in a row since the endpoint's last answer; HEAD_START and more: it looked stuck.
    cdef int give_ups(self, int index) noexcept
    # How long a request takes there on average, with what there is to do: ns, 0 = nothing is known.
    cdef double usual(self, int index) noexcept
    # Routes hedge: `give_up` will be called.
    cdef int watch_endpoints(self) except -1
    # One less in flight. `latency` is nanoseconds from the request's sending to its answer, 0 = do not learn from it;
    # `in_flight_at_start`: requests there when it came, itself included, 0 = unknown; `charged` and `load_at_start`:
    # what it cost, and what all that were there then cost, 0 = unknown.
    cdef void release(self, int index, uint64_t now, uint64_t latency, bint ok, int in_flight_at_start, int charged,
                      int load_at_start) noexcept
    cdef void give_back(self, int index, uint64_t now, int charged) noexcept
    cdef void defer_release(self, int index, uint64_t now, int charged) noexcept
    cdef void observe_weighed(self, int index, uint64_t now, uint64_t latency, bint ok,
                              int in_flight_at_start, int charged, int load_at_start) noexcept
    # A request has kept its endpoint for `latency` ns, and not because that failed: what the queue's forecast goes by.
    # `answered`: the answer was the endpoint's.
    cdef void abandoned(self, int index, uint64_t now, uint64_t waited) noexcept
    cdef void tell_queue(self, int index, uint64_t now, uint64_t latency, bint answered) noexcept
    # Let the policy learn from a latency before the request is over.
    cdef void observe(self, int index, uint64_t now, uint64_t latency, bint ok, int in_flight_at_start,
                      int cost) noexcept
