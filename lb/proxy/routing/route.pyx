"""Routes: see route.pxd.

A table is compiled once, by the worker that uses it: hosts to numbers, for each host an index of its paths (paths.pyx),
for each path its routes in the order of the configuration. The plan carries the routes, not the index: it would be no
smaller, and has to be made of live routes anyway.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy
from lb.cache.rules cimport CacheRule
from lb.shared.buckets cimport Buckets
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_head, tg_buffer_size
from lb.http.head cimport H_HOST, MAX_FIELDS, M_OTHER, Scan, worker_scan
from lb.http.http1 cimport Parser, new_request_parser
from lb.http.methods cimport method_name, method_number
from lb.http.regex cimport Regex
from lb.shared.segment cimport Segment, tg_get
from lb.shared.segment_words cimport SERIES_FINISHED, SERIES_STARTED
from lb.proxy.access.guard cimport Guard
from lb.proxy.routing.textmap cimport TEXT_ABSENT, TextMap
from lb.proxy.routing.error_pages cimport error_pages
from lb.proxy.routing.headers.aliases cimport guard_name
from lb.proxy.routing.bandwidth cimport Bandwidth
from lb.proxy.routing.compression cimport CompressionRules
from lb.proxy.routing.decompression cimport DecompressionRules
from lb.proxy.routing.conditions cimport WHAT_HEADER, WHAT_MODEL, Condition, facts_of, tg_facts
from lb.proxy.routing.cors cimport Cors
from lb.proxy.routing.headers.fields cimport FieldRules
from lb.proxy.exchange.budget cimport Counted
from lb.proxy.exchange.hedge cimport HedgePolicy
from lb.proxy.exchange.http_cache.rules cimport HttpCacheRules
from lb.proxy.exchange.mirror.mirror cimport Mirror
from lb.proxy.routing.paths cimport PathIndex
from lb.proxy.routing.rate cimport RateLimit
from lb.proxy.exchange.retry cimport RetryPolicy
from lb.proxy.routing.response_rewrite cimport ResponseRewrite
from lb.proxy.routing.rewrite cimport Rewrite
from lb.proxy.routing.split cimport Split
from lb.proxy.routing.stick cimport Tracking
from lb.proxy.routing.values.format cimport Format, RequestValues
from lb.upstream.pool cimport KEY_NONE, Pool

from lb.config.plan.routes import SAFE_HEDGES, FieldsPlan, safe_retries
from lb.config.schema.routes.template import Template
from lb.config.values import has_values
from lb.proxy.routing.body_encoding import body_encoding

cdef enum:
    STEP = 64                         # routes, in one step of what goes in steps
    HOST_ROOM = 256                   # longer ones are no names (RFC 1035 section 2.3.4); only expressions see them

cdef tg_buffer model_path
cdef str MODELS = "/v2/models/"


cdef class Answer:
    """An answer of a plan (`AnswerPlan`). `maps` are as in Format."""

    def __init__(self, plan, maps=None):
        self.status = plan.status
        self.redirect = plan.redirect
        self.head = self.host = b""
        self.body = plan.body
        if any(has_values(value) for _, value in plan.fields):
            self.fields = FieldRules(FieldsPlan(add=plan.fields), maps)
            self.kinds |= self.fields.kinds
        else:
            self.head = b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in plan.fields)
        if plan.text:
            self.body_format = self.format(plan.text, body_encoding(dict(plan.fields)), maps)
        self.scheme = plan.scheme.encode("ascii")
        if has_values(plan.host):
            self.host_format = self.format(plan.host, "host", maps)
        else:
            self.host = plan.host.encode("ascii")
        if has_values(plan.location):
            self.location = self.format(plan.location, "url", maps)
        elif plan.location:
            self.redirect = False         # nothing is left to make: the location is one of the fields
            self.head += f"Location: {plan.location}\r\n".encode("latin-1")
        self.drop_query = plan.drop_query

    cdef Format format(self, str text, str encoding, maps):
        cdef Format made = Format(text, encoding, maps)
        self.kinds |= made.kinds
        return made


cdef class Route:
    """A route of a plan (`RoutePlan`), bound to its pools and to this worker's stripe of counters.

    `pools` are those of the plan, which a split or a mirror may name. Raises ValueError for a method that HTTP does not
    know, and for a bad expression, or a rate that cannot be counted, OSError when the system has no timer for `tools`
    (HedgeTools), without which there are no pauses before retries and no hedges.
    """

    def __init__(self, plan, Pool pool, Segment segment, pools=(), tools=None):
        maps = tools.maps if tools is not None else {}
        self.name = plan.name
        self.pool = pool
        self.segment = segment
        self.series_index = plan.series
        self.series = segment.series(plan.series)
        self.cache = plan.cache
        if plan.freshness is not None:
            self.freshness = CacheRule(plan.freshness)
        if plan.cache_key is not None:
            self.cache_key = CacheKeyRule(plan.cache_key)
        self.client_tags = plan.client_tags
        self.results_by_get = plan.results_by_get
        self.timeout = plan.timeout_ns
        self.response_timeout = plan.response_timeout_ns
        self.max_body = plan.max_body
        self.max_in_flight = plan.max_in_flight
        self.priority = plan.priority
        self.expose_endpoint = plan.expose_endpoint
        self.path_kind = plan.path_kind
        if plan.access is not None:
            self.guard = Guard(plan.access, tools.providers if tools is not None else {})
        if plan.rate_limit is not None:
            self.rate = RateLimit(
                plan.rate_limit, plan.name, Buckets(segment), getattr(tools, "timers", None), plan.path_kind, plan.path,
                maps)
        if plan.quotas:
            self.quotas = tuple([tools.quotas[name] for name, _ in plan.quotas])
        if plan.track or plan.table_rules:
            self.tracking = Tracking(plan.track, plan.table_rules, tools.tables, maps)
        for method in plan.methods:
            name = method.encode("ascii")
            number = method_number(<const char *>name, <size_t>len(name))
            if number < 0:
                raise ValueError(f"not an HTTP method: {method}")
            self.methods |= <uint64_t>1 << number
        if self.methods >> M_OTHER & 1:
            self.other_methods = frozenset(method.encode("ascii") for method in plan.methods)
        if plan.conditions:
            self.conditions = tuple([
                Condition(condition, maps, plan.path_kind, plan.path) for condition in plan.conditions
            ])
        self.by_model = about_models(self, plan.path)
        self.host_place = host_of(plan.host, plan.host_regex)
        self.path_places = paths_of(plan.path, plan.path_kind)
        if plan.rewrite_host:
            self.new_host = plan.rewrite_host.encode("ascii")
        if plan.answer is not None:
            self.answer = Answer(plan.answer, maps)
        if plan.split is not None:
            self.split = Split(plan.split, pools, plan.path_kind, plan.path, maps)
        if plan.mirror is not None:
            self.mirror = Mirror(plan.mirror, pools[plan.mirror.pool], plan.name)
        if plan.rewrite is not None:
            self.rewrite = Rewrite(plan.rewrite, maps)
        if plan.request_fields is not None:
            self.request_fields = FieldRules(plan.request_fields, maps)
        if plan.response_fields is not None:
            self.response_fields = FieldRules(plan.response_fields, maps)
        if plan.response_rewrite is not None:
            self.response_rewrite = ResponseRewrite(plan.response_rewrite)
        if plan.compression is not None:
            self.compression = CompressionRules(plan.compression)
        if plan.decompression is not None:
            self.decompression = DecompressionRules(plan.decompression)
        if plan.bandwidth is not None:
            self.bandwidth = Bandwidth(
                plan.bandwidth, plan.name, Buckets(segment), tools.timers, plan.path_kind, plan.path, maps)
        self.holds_answers = (plan.compression is not None or plan.bandwidth is not None
                              or self.decompression is not None and self.decompression.answers)
        self.error_pages = error_pages(plan.error_pages)
        if plan.log_fields:
            self.log_format = Format(plan.log_fields, "json", maps)
        self.values = values_of(self, plan.path)
        self.safe_retries = plan.retry is None and plan.safe_retries
        self.safe_hedges = plan.hedge is None and plan.safe_hedges
        if plan.retry is not None:
            self.retry = RetryPolicy(
                plan.retry, segment, Counted(plan.series, plan.name), getattr(tools, "timers", None))
        if plan.hedge is not None and tools is not None:
            self.hedge = HedgePolicy(plan.hedge, segment, Counted(plan.series, plan.name, True), tools)
            for each in [pool] if pool is not None else [pools[share.pool] for share in plan.split.shares]:
                (<Pool>each).watch_endpoints()
        self.share(tools)
        if plan.cors is not None:
            self.cors = Cors(plan.cors)
        if plan.http_cache is not None:
            self.http_cache = HttpCacheRules(plan.http_cache)
        self.idempotent = plan.idempotent
        self.idempotency_key = plan.idempotency_key
        self.server_calls = plan.server_calls
        self.bare_streams = plan.bare_streams
        self.acts = bool(plan.max_in_flight or plan.answer or plan.rewrite or plan.request_fields or plan.retry
                         or plan.hedge or plan.response_rewrite or self.values is not None)
        self.timed = plan.response_timeout_ns >= 0 or plan.retry is not None

    cdef int share(self, tools) except -1:
        """Takes the retries and hedges that are for routes that say nothing of them: those that its pool shares, or of
        a split, whose pools differ, its own."""
        cdef list pools = list(self.split.pools) if self.split is not None else [self.pool]
        if tools is None or pools == [None] or not has_budget(pools):
            return 0
        if self.split is None:
            retry, hedge = tools.of_pool(self.pool, self.segment)
        else:
            retry = RetryPolicy(safe_retries(most_retries(pools)), self.segment, Counted(self.series_index, self.name),
                                tools.timers)
            hedge = HedgePolicy(SAFE_HEDGES, self.segment, Counted(self.series_index, self.name, True), tools)
            for each in pools:
                (<Pool>each).watch_endpoints()
        if self.safe_retries and (<RetryPolicy>retry).attempts > 0:
            self.retry = <RetryPolicy>retry
        if self.safe_hedges and may_hedge(pools):
            self.hedge = <HedgePolicy>hedge
        return 0

    cdef bint lends(self):
        """Whether a route of the same form can be made of this one: nothing of it counts or keeps for itself."""
        return (self.rate is None and self.bandwidth is None and self.split is None and self.mirror is None
                and (self.retry is None or self.safe_retries) and (self.hedge is None or self.safe_hedges))

    cdef Route like(self, str name, unsigned int series, Pool pool, str host, str path, tools):
        """A route of the same form, with its own values of RoutePlan.OWN. This one has to lend."""
        cdef Route made = Route.__new__(Route)
        made.name = name
        made.pool = pool
        made.series_index = series
        made.series = self.segment.series(series)
        made.host_place = host_of(host, self.host_place[0] == "regex")
        made.path_places = paths_of(path, self.path_kind)
        # The form, and the worker.
        made.segment = self.segment
        made.path_kind = self.path_kind
        made.cache = self.cache
        made.freshness = self.freshness
        made.cache_key = self.cache_key
        made.client_tags = self.client_tags
        made.results_by_get = self.results_by_get
        made.timeout = self.timeout
        made.response_timeout = self.response_timeout
        made.max_body = self.max_body
        made.max_in_flight = self.max_in_flight
        made.priority = self.priority
        made.guard = self.guard
        made.quotas = self.quotas
        made.tracking = self.tracking
        made.expose_endpoint = self.expose_endpoint
        made.methods = self.methods
        made.other_methods = self.other_methods
        made.conditions = self.conditions
        made.by_model = about_models(made, path)
        made.new_host = self.new_host
        made.answer = self.answer
        made.rewrite = self.rewrite
        made.request_fields = self.request_fields
        made.response_fields = self.response_fields
        made.response_rewrite = self.response_rewrite
        made.compression = self.compression
        made.decompression = self.decompression
        made.holds_answers = self.holds_answers
        made.error_pages = self.error_pages
        made.log_format = self.log_format
        made.values = values_of(made, path)
        made.cors = self.cors
        made.http_cache = self.http_cache
        made.idempotent = self.idempotent
        made.idempotency_key = self.idempotency_key
        made.server_calls = self.server_calls
        made.bare_streams = self.bare_streams
        made.acts = self.acts
        made.timed = self.timed
        made.safe_retries = self.safe_retries
        made.safe_hedges = self.safe_hedges
        made.share(tools)
        return made

    def __repr__(self):
        return f"Route({self.name!r})"

    cdef bint holds(self, tg_facts *facts) noexcept:
        cdef Py_ssize_t i
        if self.conditions is not None:
            for i in range(len(self.conditions)):
                if not (<Condition>self.conditions[i]).holds(facts):
                    return False
        return True

    cdef set method_names(self):
        cdef int method
        names = set(self.other_methods or ())
        for method in range(M_OTHER):
            if self.methods >> method & 1:
                names.add(<bytes>method_name(method))
        return names

    cdef bint takes_method(self, const tg_facts *facts) noexcept:
        if not (self.methods >> facts.method) & 1:
            return False
        return (facts.method != M_OTHER
                or facts.scan.method_text[:facts.scan.method_length] in self.other_methods)

    cdef bint uses_only(self, set pools):
        """Whether `pools` has all that it sends requests to."""
        if self.pool is not None and self.pool not in pools:
            return False
        if self.split is not None and not pools.issuperset(self.split.pools):
            return False
        return self.mirror is None or self.mirror.pool in pools

    cdef Pool choose(self, tg_facts *facts):
        return self.pool if self.split is None else self.split.choose(facts, self.series, self.name)

    cdef bint full(self) noexcept:
        cdef unsigned int worker
        cdef uint64_t *words
        cdef uint64_t running = 0
        if self.max_in_flight == 0:
            return False
        for worker in range(self.segment.header.workers):
            words = self.segment.series_of(<int>worker, self.series_index)
            running += tg_get(&words[SERIES_STARTED]) - tg_get(&words[SERIES_FINISHED])
        return running > <uint64_t>self.max_in_flight


cdef class RouteTable:
    """A table of `routes`, in the order of the configuration. Raises ValueError for a bad expression."""

    def __init__(self, list routes):
        for _ in self.fill(routes):
            pass

    def fill(self, list routes):
        """Fills a table that is new (`RouteTable.__new__`) in small steps: each `yield` ends one. Raises as its
        constructor does."""
        cdef Route route
        cdef Py_ssize_t done = 0
        if self.indices is not None:
            raise ValueError("a RouteTable is filled once")
        cdef dict hosts = {}                  # (kind, text) -> number
        cdef list places = []                 # by number: (kind, key) of a path -> [(kind, text), *routes]
        cdef dict paths
        self.guarded = {}
        for route in routes:
            guard_names(self.guarded, route)
            number = hosts.get(route.host_place)
            if number is None:
                number = hosts[route.host_place] = len(places)
                places.append({})
            self.cors = self.cors or route.cors is not None
            self.by_model = self.by_model or route.by_model
            paths = <dict>places[number]
            for kind, key, text in route.path_places:
                place = (kind, key)
                known = paths.get(place)
                if known is None:
                    paths[place] = [(kind, text), route]
                else:
                    (<list>known).append(route)
            done += 1
            if done % STEP == 0:
                yield
        indices = []
        leaves = []
        for number in range(len(places)):
            paths = <dict>places[number]
            places[number] = None             # freed here, and not all at once in the last step
            indices.append(PathIndex([(<list>known)[0] for known in paths.values()]))
            leaves.append(tuple([tuple((<list>known)[1:]) for known in paths.values()]))
            done += len(paths)
            if done >= STEP:
                done = 0
                yield
        self.hosts = TextMap({text.encode("ascii"): n for (kind, text), n in hosts.items() if kind == "exact"})
        self.suffixes = TextMap({text.encode("ascii"): n for (kind, text), n in hosts.items() if kind == "suffix"})
        yield
        regexes = [(Regex(text.encode("ascii"), True), n) for (kind, text), n in hosts.items() if kind == "regex"]
        self.host_regexes = tuple([regex for regex, _ in regexes])
        self.host_regex_numbers = tuple([number for _, number in regexes])
        self.any_host = hosts.get(("any", ""), -1)
        self.leaves = tuple(leaves)
        self.indices = tuple(indices)
        self.size = len(routes)

    cdef Route find(self, tg_facts *facts, bint *other_method):
        cdef char host[HOST_ROOM]
        cdef size_t n = facts.host_length, i
        cdef Py_ssize_t k
        cdef int number
        cdef char c
        cdef Route route
        other_method[0] = False
        if n and facts.host[n - 1] == 46:
            n -= 1                            # "example.org." is the same name, absolute (RFC 3986 section 3.2.2)
        if n and n <= HOST_ROOM and (self.hosts.size or self.suffixes.size):
            for i in range(n):
                c = facts.host[i]
                host[i] = c | 32 if 65 <= c <= 90 else c
            number = self.hosts.find(host, n)
            if number != TEXT_ABSENT:
                route = self.within(number, facts, other_method)
                if route is not None:
                    return route
            if self.suffixes.size:
                for i in range(1, n):
                    if host[i] != 46:
                        continue
                    number = self.suffixes.find(host + i, n - i)
                    if number != TEXT_ABSENT:
                        route = self.within(number, facts, other_method)
                        if route is not None:
                            return route
        for k in range(len(self.host_regexes)):
            if (<Regex>self.host_regexes[k]).search(facts.host, n):
                route = self.within(<int>self.host_regex_numbers[k], facts, other_method)
                if route is not None:
                    return route
        if self.any_host >= 0:
            return self.within(self.any_host, facts, other_method)
        return None

    cdef Route within(self, int host, tg_facts *facts, bint *other_method):
        """The route among those of one host."""
        cdef PathIndex index = <PathIndex>self.indices[host]
        cdef tuple leaves = <tuple>self.leaves[host]
        cdef int left = 0 if index.simple else index.find(facts.path, facts.path_length)
        cdef Py_ssize_t k
        cdef Route route
        while left:
            left -= 1
            route = self.first(<tuple>leaves[index.hits[left]], facts, other_method)
            if route is not None:
                return route
        for k in range(index.regex_count):
            if index.regex_matches(k, facts.path, facts.path_length):
                route = self.first(<tuple>leaves[<int>index.regex_numbers[k]], facts, other_method)
                if route is not None:
                    return route
        if index.any >= 0:
            return self.first(<tuple>leaves[index.any], facts, other_method)
        return None

    cdef Route first(self, tuple routes, tg_facts *facts, bint *other_method):
        """The first of `routes` whose method and conditions fit."""
        cdef Py_ssize_t i
        cdef Route route
        for i in range(len(routes)):
            route = <Route>routes[i]
            if route.methods and not route.takes_method(facts):
                if self.refused is not None:
                    if route.holds(facts):
                        self.refused |= route.method_names()
                elif not other_method[0] and route.holds(facts):
                    other_method[0] = True
            elif route.conditions is None or route.holds(facts):
                other_method[0] = False
                return route
        return None

    cdef bytes allowed(self, tg_facts *facts):
        cdef bint ignored
        self.refused = set()
        self.find(facts, &ignored)
        names = sorted(self.refused)
        self.refused = None
        return b", ".join(names)

    cdef Route find_model(self, tg_facts *facts, const char *model, size_t n, bint *other_method):
        cdef tg_facts named
        cdef const char *digits = b"0123456789ABCDEF"
        cdef char escape[3]
        cdef size_t i
        cdef unsigned char c
        cdef int failed
        memcpy(&named, facts, sizeof(named))
        tg_buffer_clear(&model_path)
        failed = tg_buffer_append(&model_path, b"/v2/models/", 11)
        for i in range(n):
            c = <unsigned char>model[i]
            if 48 <= c <= 57 or 65 <= (c & 0xDF) <= 90 or c == 45 or c == 46 or c == 95 or c == 126:
                failed |= tg_buffer_append(&model_path, model + i, 1)
            else:
                escape[0] = 37
                escape[1] = digits[c >> 4]
                escape[2] = digits[c & 15]
                failed |= tg_buffer_append(&model_path, escape, 3)
        failed |= tg_buffer_append(&model_path, b"/infer", 6)
        if failed:
            other_method[0] = False
            return None
        named.path = tg_buffer_head(&model_path)
        named.path_length = tg_buffer_size(&model_path)
        return self.find(&named, other_method)

    def __len__(self):
        return self.size

    def lookup(self, bytes request not None, bytes ip=b"", bytes model=None):
        """The route of a request, given as HTTP/1.1 from a client at `ip`, or None; and whether only its method was
        wrong. `model` is one that its body names. For tests and tools: Host has no port. Raises ValueError for what is
        no request."""
        cdef Parser parser = new_request_parser()
        cdef Scan *scan = worker_scan()
        cdef tg_facts facts
        cdef bint other_method = False
        cdef const char *host = NULL
        cdef size_t n = 0
        scan.max_fields = MAX_FIELDS - 1
        if parser.execute(scan, <const char *>request, <size_t>len(request)) < 0 or not scan.head:
            raise ValueError("not a request with its whole head")
        if scan.first[H_HOST] >= 0:
            host = scan.fields[scan.first[H_HOST]].value
            n = scan.fields[scan.first[H_HOST]].value_length
        facts_of(&facts, scan, host, n, scan.method, <const char *>ip, <size_t>len(ip))
        if model is not None:
            found = self.find_model(&facts, <const char *>model, <size_t>len(model), &other_method)
            return found, bool(other_method)
        return self.find(&facts, &other_method), bool(other_method)


cdef bint has_budget(list pools):
    """Whether the pools count requests for budgets: those of plans that were compiled do."""
    return all([(<Pool>pool).requests != NULL for pool in pools])


cdef int most_retries(list pools):
    return max([(<Pool>pool).retries for pool in pools])


cdef bint may_hedge(list pools):
    """Whether a request may as well be another endpoint's: not where the one that it goes to has what it needs."""
    return all([
        (<Pool>pool).endpoints.size > 1 and not (<Pool>pool).sticky and (<Pool>pool).key_kind == KEY_NONE
        for pool in pools
    ])


cdef void guard_names(dict names, Route route):
    if route.conditions is not None:
        guard_conditions(names, route.conditions)
    if route.guard is not None:
        for name in route.guard.names():
            guard_name(names, name)
    if route.request_fields is not None:
        for name in route.request_fields.removed:
            guard_name(names, name)


cdef void guard_conditions(dict names, tuple conditions):
    cdef Condition condition
    for condition in conditions:
        if condition.what == WHAT_HEADER:
            guard_name(names, condition.name)
        for group in condition.groups:
            guard_conditions(names, group)


cdef RequestValues values_of(Route route, str path):
    """What the route's texts ask of its requests; None: nothing."""
    cdef uint64_t kinds = 0
    if route.answer is not None:
        kinds |= route.answer.kinds
    if route.rewrite is not None and route.rewrite.format is not None:
        kinds |= route.rewrite.format.kinds
    if route.request_fields is not None:
        kinds |= route.request_fields.kinds
    if route.response_fields is not None:
        kinds |= route.response_fields.kinds
    if route.log_format is not None:
        kinds |= route.log_format.kinds
    if route.tracking is not None:
        kinds |= route.tracking.kinds
    return RequestValues(kinds, route.path_kind, path) if kinds else None


cdef bint about_models(Route route, str path):
    """Whether the route takes requests about certain models only, by a path below /v2/models/ or a condition."""
    cdef Condition condition
    if route.path_kind == "model" or route.path_kind == "prefix" and path != MODELS and path.startswith(MODELS):
        return True
    for condition in route.conditions or ():
        if condition.what == WHAT_MODEL:
            return True
    return False


cdef tuple host_of(str host, bint regex):
    """Kind and text of a route's host, as the table keeps them."""
    if regex:
        return "regex", host
    if host.startswith("*."):
        return "suffix", host[1:]
    return ("exact" if host else "any"), host


cdef tuple paths_of(str path, str kind):
    """A route's places among the paths of its host: kind, what tells the path from others of the kind, and its text."""
    if kind == "model":
        return ("exact", path, path), ("prefix", path + "/", path + "/")
    if kind == "template":
        return (("template", Template.parse(path).key, path),)
    return ((kind, path, path),)
