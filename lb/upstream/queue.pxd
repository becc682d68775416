"""Those who wait for an endpoint while every one of the pool has as much in flight as it may, or while one starts.

One queue for a pool and worker; those of all workers are one queue to the outside. Each publishes in its series how
many wait and where its first stands, so that who comes next is decided over all workers, and how many wait is bounded
over all. Whoever gives an endpoint back serves its own first, or wakes the worker whose first comes before.
"""

from libc.stdint cimport uint64_t
from lb.net.wakeups cimport Wakeups
from lb.net.poller cimport Source, Timed
from lb.shared.segment cimport Segment
from lb.endpoints.groups cimport Groups
from lb.endpoints.set cimport EndpointSet
from lb.upstream.patience cimport Patience
from lb.upstream.waiting_line cimport tg_line
from lb.upstream.load.service_time cimport ServiceTime


cdef enum verdict:
    Q_WAITS = 0
    Q_FULL                            # too many wait
    Q_HOPELESS                        # it could not be served in time
    Q_SHED                            # it could, but the overload lasts, and the queue is kept short
    Q_TIMEOUT                         # it has waited as long as one may
    Q_NOBODY                          # no endpoint is left that could have room some day
    Q_NO_START                        # there is none, and none could be started

cdef enum:
    AGAIN_NS = 2_000_000_000          # after which a client may come again where nobody knows when an endpoint starts

cdef enum priority:
    HIGH = 0
    NORMAL
    LOW

cdef enum taken:
    TAKEN_NOBODY = -1                 # no endpoint takes requests
    TAKEN_FULL = -2                   # those that do have as many as they may


cdef class Waiter(Timed):
    cdef PoolQueue queue              # None: it does not wait
    cdef bint endpoint_bound          # only one endpoint will do, which has no room: others may pass
    cdef uint64_t wanted              # the bit of its model, where endpoints say whether it is ready; 0 = any will do
    cdef uint64_t order               # its key in the line
    cdef uint64_t number              # among equal keys
    cdef uint64_t queued_at
    cdef uint64_t wanted_by           # when the answer has to be there; NEVER = no matter

    # An endpoint for it, counted in flight: an index of its pool, or TAKEN_… `blocked`: bits of the models that those
    # in front of it wait for (Choice.blocked).
    cdef int take_endpoint(self, uint64_t now, uint64_t blocked) noexcept
    # The same while its turn has not come.
    cdef int take_endpoint_now(self, uint64_t now) noexcept
    # It waits, until then (monotonic ns) at most.
    cdef void queued(self, uint64_t until) noexcept
    # It waits no more: it has this endpoint.
    cdef void admitted(self, int endpoint) noexcept
    # It waits no more, and gets none.
    cdef void turned_away(self, int why) noexcept
    # No other endpoint had room for too long: from now on the one that has failed it will do, too.
    cdef void settle(self) noexcept
    # Its pool has another form since a reload. Where that is of another protocol, the waiter stays with the old one.
    cdef void move_to(self, object pool) noexcept
    # The endpoint of an Attempt of it was marked down, or a better one up, and the pool ends such attempts.
    cdef void endpoint_marked(self, object attempt) noexcept


# What keeps those behind from which endpoints: bits of models, of which an endpoint must have none ready, 0 where all
# are free, or that nobody may pass.
cdef extern from *:
    """
    #include <stdint.h>
    #define ALL_MODELS_BLOCKED UINT64_MAX
    """
    const uint64_t ALL_MODELS_BLOCKED


cdef class PoolQueue(Source):
    cdef readonly str name
    cdef Segment segment
    cdef EndpointSet endpoints
    cdef Groups groups                # None: they are of one
    cdef Wakeups wakeups
    cdef int series
    cdef uint64_t *words              # of the series, this worker's
    cdef int own
    cdef int workers
    cdef uint64_t most                # that may wait, in all workers
    cdef uint64_t tolerated           # the same, while those go that waited when it became less
    cdef uint64_t timeout
    cdef uint64_t patience            # for how long people wait until that is an overload
    cdef double share                 # of the time that is left, which may be spent waiting during one
    cdef tg_line line
    cdef uint64_t numbers
    cdef bint impatient               # the next look does not wait for other workers
    cdef uint64_t heading             # who finds no endpoint although it is the first, by its number,
    cdef uint64_t heading_since       # and since when
    # What the forecast goes by (lb.upstream.queue).
    cdef ServiceTime service
    cdef Patience clients             # how long those without a deadline wait
    cdef int tried                    # of them that wait for longer all the same, so many were refused since the last
    cdef dict warmths                 # address of an endpoint -> its Warmth
    cdef uint64_t slots               # requests that the endpoints may have at once
    cdef double rate                  # requests per ns that they serve then, where limits are learned; 0 = not known
    cdef uint64_t counted_at
    # A pool whose endpoints the master starts may have none that takes requests: those that come wait for it. In a pool
    # on demand they have one started.
    cdef readonly bint awaits_start
    cdef public object wake           # called with the pool's name: the master starts an endpoint; None: nobody does
    cdef uint64_t woken_at            # when it was called last
    # What the master told last of the start (`tell_start`). Times are monotonic ns, 0 = unknown.
    cdef uint64_t ready_at            # when an endpoint is ready at the earliest
    cdef uint64_t start_takes         # ns from a start to ready, the shortest of late
    cdef readonly str trouble         # why no endpoint can be started; None: nothing is known to be wrong
    cdef bint passing                 # the trouble is only that of those who wait now
    cdef bint refusing                # with the next flush those are refused who wait in vain

    # Q_WAITS: `waiter` is in line, by `priority` (0 goes first) and `due` (monotonic ns at which its answer has to be
    # there; NEVER = none), and is told what becomes of it. Else it is not, and is not told.
    cdef int join(self, Waiter waiter, int priority, uint64_t due, uint64_t now) noexcept
    # The verdict of `join` is the end of it: there was no other endpoint for it either.
    cdef void count_refused(self, int verdict) noexcept
    # Before its turn: because its time is over, or its client has left.
    cdef void leave(self, Waiter waiter, bint timed_out) noexcept
    # When it has waited as long as it may.
    cdef uint64_t patience_of(self, Waiter waiter) noexcept
    # Whether anybody waits, in any worker, so that nobody may pass.
    cdef bint somebody(self) noexcept
    # What a newcomer must leave to those who wait, in any worker.
    cdef uint64_t blocked_models(self) noexcept
    # An endpoint has room again.
    cdef void released(self) noexcept
    # Nanoseconds after which a request that comes now would have its turn; 0: nothing is known of that.
    cdef uint64_t turn_after(self, uint64_t now) noexcept
    # Whether no endpoint takes requests, but one is started for those that come.
    cdef bint at_zero(self) noexcept
    # As `join`, where the pool is at zero. `wakes`: an endpoint is started if there is none.
    cdef int hold(self, Waiter waiter, int priority, uint64_t due, bint wakes, uint64_t now) noexcept
    # At zero, the nanoseconds until an endpoint may be ready; 0: nothing is known of that.
    cdef uint64_t start_left(self, uint64_t now) noexcept

    cdef void ask_to_wake(self, uint64_t now) noexcept
    cdef void refuse_at_zero(self, uint64_t now) noexcept
    cdef uint64_t waiting(self, int worker) noexcept
    cdef uint64_t waiting_elsewhere(self) noexcept
    cdef uint64_t blocked_here(self) noexcept
    cdef bint serve_one(self, uint64_t now, bint impatient) noexcept
    cdef void settle_in_time(self, Waiter waiter, uint64_t service, uint64_t now) noexcept
    cdef void serve_endpoint_bound(self, uint64_t now) noexcept
    cdef int try_out(self, uint64_t key, uint64_t wanted, uint64_t now) noexcept
    cdef bint make_room(self, int priority) noexcept
    cdef void turn_away_last(self, uint64_t now) noexcept
    cdef void over(self, Waiter waiter, uint64_t now) noexcept


# `waiter` has found no endpoint (`found` is TAKEN_…): it waits for one in `queue`, which may be None, or is turned
# away. `failed`: an endpoint has failed it, and will do rather than none. The endpoint that it gets at once after all,
# counted in flight; -1 = none.
cdef int stand_in_line(PoolQueue queue, Waiter waiter, int found, int priority, uint64_t due, bint failed,
                       uint64_t now) noexcept


# What the queues of a pool in all workers tell each other, by the words of their series in the shared segment.
#
# Each is written by its worker alone, and read by the others at any moment.

cdef enum:
    LOOK_AHEAD = 4096                 # of those in line, who may be the first of their model


# The key of the last one in the worker's line; 0: nobody waits there.
cdef uint64_t last_of(PoolQueue queue, int worker) noexcept
# The worker whose last one is the last of all.
cdef int last_of_all(PoolQueue queue) noexcept
# What those in another worker who come before `key` keep from those behind; see ALL_MODELS_BLOCKED.
cdef uint64_t blocked_by(PoolQueue queue, int worker, uint64_t key) noexcept
# The same of those in all other workers, in addition to `avoided`; they are told to look, but of those who take any
# endpoint only the first.
cdef uint64_t blocked_before(PoolQueue queue, uint64_t key, uint64_t avoided) noexcept
# Where those stand for whom others may have to wait: the first of each model, up to one who takes any. And how many
# come before whom, roughly.
cdef void publish_line(PoolQueue queue) noexcept


# When the turn of those who wait in a queue will come, by how long requests keep their endpoints.

# Endpoints' slots for requests that want this model, and the bits of those models that are ready there, too.
cdef uint64_t slots_of(PoolQueue queue, uint64_t wanted, uint64_t *rivals) noexcept
# How many come before one with this key and may take an endpoint from it, over all workers, roughly.
cdef double ahead_of(PoolQueue queue, uint64_t key, uint64_t rivals) noexcept
# Tells other workers how many come before whom in this one's line, which is not empty.
cdef void publish_marks(PoolQueue queue) noexcept
# Nanoseconds until it is the turn of one with this key; 0 when nothing is known of that.
cdef double wait_of(PoolQueue queue, uint64_t key, uint64_t wanted, uint64_t now) noexcept
# Somebody has waited for longer than a burst lasts.
cdef bint overloaded(PoolQueue queue, uint64_t now) noexcept
