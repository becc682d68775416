"""Rules of a `tls` listener: see sni.pxd."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcmp
from lb.net.tls.client_hello cimport hello_offers, tg_hello
from lb.net.ip cimport Networks, tg_ip
from lb.proxy.routing.split cimport Split


cdef inline int compare(const tg_name *entry, const char *name, size_t n) noexcept nogil:
    cdef size_t common = entry.length if entry.length < n else n
    cdef int order = memcmp(entry.text, name, common)
    if order:
        return order
    return 0 if entry.length == n else -1 if entry.length < n else 1


cdef class SniRule:
    """A rule of a plan (`SniRoutePlan`), bound to its pools. Raises ValueError for a source that is no network."""

    def __init__(self, table, alpn=(), sources=(), bint terminate=False, str listener=""):
        self.table = table
        self.terminate = terminate
        self.listener = listener
        self.alpn = tuple([name.encode() for name in alpn])
        self.sources = Networks(sources) if sources else None

    cdef bint fits(self, const tg_hello *hello, const tg_ip *source) noexcept:
        cdef object item
        cdef bytes name
        if self.sources is not None and not self.sources.contains_ip(source):
            return False
        if not self.alpn:
            return True
        for item in self.alpn:
            name = <bytes>item
            if hello_offers(hello, <const char *>name, <size_t>len(name)):
                return True
        return False


cdef class SniTable:
    """`plans` are SniRoutePlans, `pools` those of the plan, `rest` the Pool or Split of what no rule takes, or None."""

    def __cinit__(self, plans, pools, rest):
        cdef Py_ssize_t i
        cdef Py_ssize_t at = 0
        cdef const char *base
        rules, exact, patterns, nameless = [], [], [], []
        for number, plan in enumerate(plans):
            table = None if plan.listener else table_of(plan, pools)
            rules.append(SniRule(table, plan.alpn, plan.sources, plan.terminate, plan.listener))
            for name in plan.sni:
                if name.startswith("*."):
                    patterns.append((name[2:].encode("ascii"), number))
                else:
                    exact.append((name.encode("ascii"), number))
            if not plan.sni:
                nameless.append((b"", number))
        if rest is not None:
            nameless.append((b"", len(rules)))
            rules.append(SniRule(rest))
        # Sorted by name, and those of one name in the order of the file.
        entries = [*sorted(exact), *sorted(patterns), *nameless]
        self.rules = tuple(rules)
        self.exact = len(exact)
        self.patterns = len(patterns)
        self.count = len(entries)
        self.names = b"".join([name for name, _ in entries])
        self.entries = <tg_name *>calloc(<size_t>self.count + 1, sizeof(tg_name))
        if self.entries == NULL:
            raise MemoryError
        base = <const char *>self.names
        for i, (name, number) in enumerate(entries):
            self.entries[i].text = base + at
            self.entries[i].length = <uint32_t>len(name)
            self.entries[i].rule = number
            at += len(name)

    def __dealloc__(self):
        free(self.entries)

    cdef SniRule find(self, const tg_hello *hello, const tg_ip *source):
        cdef const char *name = <const char *>hello.sni
        cdef const char *end = name + hello.sni_length
        cdef const char *dot
        cdef SniRule rule
        cdef Py_ssize_t nameless = self.exact + self.patterns
        if hello.sni_length:
            rule = self.among(0, self.exact, name, hello.sni_length, hello, source)
            if rule is not None:
                return rule
            while self.patterns:
                dot = <const char *>memchr(name, 46, <size_t>(end - name))
                if dot == NULL:
                    break
                name = dot + 1
                rule = self.among(self.exact, nameless, name, <size_t>(end - name), hello, source)
                if rule is not None:
                    return rule
        return self.among(nameless, self.count, b"", 0, hello, source)

    cdef SniRule among(self, Py_ssize_t low, Py_ssize_t high, const char *name, size_t n, const tg_hello *hello,
                       const tg_ip *source):
        """The first rule of exactly this name, among the entries from `low` to before `high`, that fits."""
        cdef Py_ssize_t end = high, middle
        cdef SniRule rule
        while low < high:
            middle = (low + high) // 2
            if compare(&self.entries[middle], name, n) < 0:
                low = middle + 1
            else:
                high = middle
        while low < end and compare(&self.entries[low], name, n) == 0:
            rule = <SniRule>self.rules[self.entries[low].rule]
            if rule.fits(hello, source):
                return rule
            low += 1
        return None


def table_of(plan, pools):
    """The Pool that a ListenerPlan or SniRoutePlan names, or the Split of those that it names; None for neither."""
    if plan.split is not None:
        return Split(plan.split, pools)
    return pools[plan.pool] if plan.pool >= 0 else None
