"""Costs in the shared segment: see costs.pxd for the contract and segment.h for the layout.

A name has its place in one set of eight. A new one takes a place that is free, else that of the one that was not used
for longest, which is forgotten (and counted) and learned anew should it come again. Names are only put in once an
endpoint has answered for them, so that clients cannot fill the table with models that are not there.

A process may die after any instruction, and others write at the same time. Who takes over a place moves its time on, so
that nobody else chooses it, and puts TAKEN where the old key was, by compare-and-swap: of those who want it one wins,
and the others do without this once. Death there leaves a place that nobody finds, until it is the one that was not used
for longest. Two workers may put in the same name at once in two places: both find the first from then on, and the other
one is not used. What one learns while another does may be lost, and a worker that still holds a record which changed
hands may add one value to the new one; both are averages, and such an error is soon gone.
"""

cimport cython
from libc.stdint cimport UINT64_MAX, uint64_t
from libc.string cimport memcpy, memset

from lb.shared.atomics cimport (
    tg_cas64,
    tg_fetch_add64,
    tg_load64,
    tg_load64_relaxed,
    tg_load_double_relaxed,
    tg_store64,
    tg_store64_relaxed,
    tg_store_double_relaxed,
)
from lb.shared.hashing cimport hash64_keyed
from lb.shared.segment cimport TG_COST_NAME, TG_COST_WAYS, Segment, tg_cost, tg_cost_head, tg_cost_set

cdef enum:
    TAKEN = 1
    TOUCH_NS = 1_000_000_000          # how old the time of the last use may be

# Requests over which the averages are taken, roughly.
cdef double SMOOTHING = 1.0 / 16
# How many times the expected one request counts for at most: a stall says little of what a model takes.
cdef double MOST = 4.0


@cython.final
cdef class Costs:
    """The costs of `segment`. Any process may use them, the master too."""

    def __init__(self, Segment segment not None):
        segment.check_open()
        self.segment = segment
        self.head = <tg_cost_head *> (segment.base + segment.header.costs_offset)
        self.sets = <tg_cost_set *> (self.head + 1)
        self.mask = segment.header.cost_sets - 1

    def __repr__(self):
        return f"<Costs capacity={self.capacity} evicted={self.evicted}>"

    cdef uint64_t key_of(self, const char *name, size_t n) noexcept nogil:
        return hash64_keyed(name, n, self.segment.header.cost_secret) | 2

    cdef tg_cost *find(self, uint64_t key, uint64_t now) noexcept nogil:
        cdef tg_cost *ways = self.sets[(key >> 2) & self.mask].ways
        cdef int way
        for way in range(<int> TG_COST_WAYS):
            if tg_load64(&ways[way].key) == key:
                if now > tg_load64_relaxed(&ways[way].used_ns) + <uint64_t> TOUCH_NS:
                    tg_store64_relaxed(&ways[way].used_ns, now)
                return &ways[way]
        return NULL

    cdef tg_cost *take(self, uint64_t key, const char *name, size_t n, uint64_t now) noexcept nogil:
        cdef tg_cost *ways = self.sets[(key >> 2) & self.mask].ways
        cdef tg_cost *record = self.find(key, now)
        cdef uint64_t old, used, least = UINT64_MAX
        cdef int way
        if record != NULL or n >= <size_t> TG_COST_NAME:
            return record
        for way in range(<int> TG_COST_WAYS):
            used = tg_load64_relaxed(&ways[way].used_ns)
            if used < least:
                least = used
                record = &ways[way]
        old = tg_load64(&record.key)
        if not tg_cas64(&record.used_ns, least, now) or not tg_cas64(&record.key, old, TAKEN):
            return NULL
        tg_store64_relaxed(&self.head.used, 1)
        if old > <uint64_t> TAKEN:
            tg_fetch_add64(&self.head.evicted, 1)
        tg_store64_relaxed(&record.busy_ns, 0)
        tg_store64_relaxed(&record.units, 0)
        tg_store64_relaxed(&record.mean, 0)
        tg_store64_relaxed(&record.samples, 0)
        memset(record.name, 0, sizeof(record.name))
        memcpy(record.name, name, n)
        tg_store64(&record.key, key)
        return record

    cdef void learn(self, tg_cost *record, double busy, double units, double weight) noexcept nogil:
        cdef uint64_t samples = tg_load64_relaxed(&record.samples)
        cdef double known_busy = tg_load_double_relaxed(&record.busy_ns)
        cdef double known_units = tg_load_double_relaxed(&record.units)
        cdef double step
        if samples == 0 or known_busy <= 0 or known_units <= 0:
            known_busy, known_units = busy, units
        else:
            # The first ones may be those that load the model: they are soon outvoted.
            step = weight * max(SMOOTHING, 1.0 / <double> (samples + 1))
            busy = min(busy, MOST * units * known_busy / known_units)
            known_busy += (busy - known_busy) * step
            known_units += (units - known_units) * step
        tg_store_double_relaxed(&record.busy_ns, known_busy)
        tg_store_double_relaxed(&record.units, known_units)
        tg_store64_relaxed(&record.samples, samples + 1)

    cdef double unit_time(self, const tg_cost *record) noexcept nogil:
        cdef double units = tg_load_double_relaxed(&record.units)
        return tg_load_double_relaxed(&record.busy_ns) / units if units > 0 else 0.0

    # From Python: the master, tests.

    @property
    def capacity(self) -> int:
        """How many models and pools there may be."""
        return (self.mask + 1) * TG_COST_WAYS

    @property
    def evicted(self) -> int:
        """Models that were forgotten to make room for others."""
        self.segment.check_open()
        return tg_load64_relaxed(&self.head.evicted)

    def rows(self) -> dict[str, tuple[float, int]]:
        """{name: (ns per unit, samples)} of all that is known. A pool's own row is named after it, those of its models
        "pool|model"; a name that is not UTF-8 has replacement characters."""
        cdef uint64_t index, key
        cdef tg_cost *record
        cdef bytes name
        cdef int way
        cdef dict found = {}
        self.segment.check_open()
        if not tg_load64_relaxed(&self.head.used):
            return found                      # or a look would allocate all its pages
        for index in range(self.mask + 1):
            for way in range(<int> TG_COST_WAYS):
                record = &self.sets[index].ways[way]
                key = tg_load64(&record.key)
                if key <= <uint64_t> TAKEN:
                    continue
                name = (<bytes> record.name[:<Py_ssize_t> TG_COST_NAME]).split(b"\0", 1)[0]
                # It may have changed hands meanwhile.
                if self.key_of(<const char *> name, <size_t> len(name)) != key or tg_load64(&record.key) != key:
                    continue
                text = name.decode(errors="replace")
                if text not in found:
                    found[text] = (self.unit_time(record), tg_load64_relaxed(&record.samples))
        return found
