"""Stick tables of a route: see stick.pxd. The entries are the segment's, so that they hold over all workers."""

cimport cython
from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer, tg_buffer_clear, tg_buffer_head, tg_buffer_size
from lb.proxy.routing.values.format cimport FORMAT_NO_MEMORY, V_IDENTITY, Format, tg_values
from lb.shared.stick_tables cimport (
    STICK_BYTES_IN, STICK_BYTES_OUT, STICK_ERRORS, STICK_FAILURES, STICK_GPC0, STICK_REQUESTS, StickTable, stick_now,
    tg_stick_ref,
)

cdef enum:
    HOW_ABOVE = 0
    HOW_BELOW
    HOW_EXACT

cdef dict HOW = {"above": HOW_ABOVE, "below": HOW_BELOW, "exact": HOW_EXACT}
# A key, until its entry is found.
cdef tg_buffer text


cdef class Comparison:
    """The condition of a plan (ComparisonPlan). `tables` has the worker's tables by name: the text of the key, and the
    StickTable. KeyError for one that there is not."""

    def __init__(self, plan, tables, maps):
        key, self.table = tables[plan.table]
        self.key = Format(key, "text", maps)
        self.field = plan.field
        self.how = HOW[plan.how]
        self.number = plan.number

    cdef bint accepts(self, uint64_t value) noexcept nogil:
        if self.how == HOW_ABOVE:
            return value > self.number
        if self.how == HOW_BELOW:
            return value < self.number
        return value == self.number


cdef class TableRule:
    """The rule of a plan (TableRulePlan), which is `number`. `tables` as in Comparison."""

    def __init__(self, plan, int number, tables, maps):
        self.when = tuple([Comparison(each, tables, maps) for each in plan.when])
        self.what.status = plan.deny
        self.what.tarpit = plan.tarpit_ns
        self.what.number = number
        self.sets = tuple([(tables[name][1], value) for name, value in plan.set_gpt0])
        self.adds = tuple([tables[name][1] for name in plan.add_gpc0])
        named = {*[each.table for each in plan.when], *[name for name, _ in plan.set_gpt0], *plan.add_gpc0}
        for name in named:
            if Format(tables[name][0], "text", maps).kinds >> V_IDENTITY & 1:
                self.late = True


cdef class Tracking:
    """`track` are names of tables, `rules` of TableRulePlan. `tables` as in Comparison, `maps` as in Format. Raises
    KeyError for a table that there is not, ValueError for more than TRACKED_MOST."""

    def __init__(self, track, rules, tables, maps):
        cdef Format key
        cdef TableRule rule
        cdef Comparison comparison
        if len(track) > TRACKED_MOST:
            raise ValueError(f"{len(track)} tables are more than {<int> TRACKED_MOST}")
        self.tables = tuple([tables[name][1] for name in track])
        self.keys = tuple([Format(tables[name][0], "text", maps) for name in track])
        self.rules = tuple([TableRule(each, i, tables, maps) for i, each in enumerate(rules)])
        for i, key in enumerate(self.keys):
            self.kinds |= key.kinds
            if key.kinds >> V_IDENTITY & 1:
                self.late_tables |= <unsigned char> (1 << <int> i)
                self.late = True
            else:
                self.early = True
        for rule in self.rules:
            for comparison in rule.when:
                self.kinds |= comparison.key.kinds
            if rule.late:
                self.late = True
            else:
                self.early = True

    cdef Tracked track(self, Tracked made, bint late, const tg_values *values, int *result, tg_rule *what):
        cdef uint64_t now = stick_now()
        if made is None:
            made = Tracked.__new__(Tracked)
            made.tracking = self
        result[0] = self.begin(made, late, values, now)
        if result[0] == RULE_PASSED and len(self.rules):
            result[0] = self.decide(made, late, values, what, now)
        return made if made.count else None

    cdef int begin(self, Tracked made, bint late, const tg_values *values, uint64_t now) noexcept:
        cdef StickTable table
        cdef Py_ssize_t i
        cdef int failed
        cdef tg_stick_ref *ref
        for i in range(len(self.tables)):
            if (self.late_tables >> i & 1) != late:
                continue
            table = <StickTable> self.tables[i]
            tg_buffer_clear(&text)
            failed = (<Format> self.keys[i]).append(&text, values)
            if failed:
                return RULE_NO_MEMORY if failed == FORMAT_NO_MEMORY else RULE_TOO_LONG
            if tg_buffer_size(&text) == 0:
                continue                      # the request has nothing to be counted by
            ref = &made.refs[made.count]
            if not table.hold(tg_buffer_head(&text), tg_buffer_size(&text), now, ref):
                continue
            made.at[made.count] = <unsigned char> i
            made.count += 1
            table.add(ref, STICK_REQUESTS, 1, now)
        return RULE_PASSED

    cdef int decide(self, Tracked made, bint late, const tg_values *values, tg_rule *what, uint64_t now) noexcept:
        cdef TableRule rule
        cdef Comparison each
        cdef StickTable table
        cdef tg_stick_ref *ref
        cdef uint64_t value
        cdef Py_ssize_t i, k
        cdef int failed
        for i in range(len(self.rules)):
            rule = <TableRule> self.rules[i]
            if rule.late != late:
                continue
            for k in range(len(rule.when)):
                each = <Comparison> rule.when[k]
                ref = made.ref_of(each.table)
                if ref != NULL:
                    value = each.table.value(ref, each.field, now)
                else:
                    tg_buffer_clear(&text)
                    failed = each.key.append(&text, values)
                    if failed:
                        return RULE_NO_MEMORY if failed == FORMAT_NO_MEMORY else RULE_TOO_LONG
                    if tg_buffer_size(&text) == 0:
                        break
                    value = each.table.look(tg_buffer_head(&text), tg_buffer_size(&text), each.field, now)
                if not each.accepts(value):
                    break
            else:
                for k in range(len(rule.sets)):
                    table = <StickTable> (<tuple> rule.sets[k])[0]
                    ref = made.ref_of(table)
                    if ref != NULL:
                        table.set_gpt0(ref, <uint64_t> (<tuple> rule.sets[k])[1])
                for k in range(len(rule.adds)):
                    table = <StickTable> rule.adds[k]
                    ref = made.ref_of(table)
                    if ref != NULL:
                        table.add(ref, STICK_GPC0, 1, now)
                if rule.what.status:
                    what[0] = rule.what
                    return RULE_DENIED
        return RULE_PASSED


@cython.no_gc
cdef class Tracked:

    def __dealloc__(self):
        if self.count:
            self.end(False, False, 0, 0)      # of an exchange that was never recorded

    cdef tg_stick_ref *ref_of(self, StickTable table) noexcept:
        cdef int i
        for i in range(self.count):
            if <StickTable> self.tracking.tables[self.at[i]] is table:
                return &self.refs[i]
        return NULL

    cdef void end(self, bint error, bint failure, uint64_t received, uint64_t sent) noexcept:
        cdef uint64_t now = stick_now()
        cdef StickTable table
        cdef int i
        for i in range(self.count):
            table = <StickTable> self.tracking.tables[self.at[i]]
            if error:
                table.add(&self.refs[i], STICK_ERRORS, 1, now)
            if failure:
                table.add(&self.refs[i], STICK_FAILURES, 1, now)
            if received:
                table.add(&self.refs[i], STICK_BYTES_IN, received, now)
            if sent:
                table.add(&self.refs[i], STICK_BYTES_OUT, sent, now)
            table.release(&self.refs[i], now)
        self.count = 0
