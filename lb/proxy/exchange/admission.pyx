"""From a request's head to its exchange: see admission.pxd."""

from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from lb.failure cimport (
    FAIL_BAD_REQUEST, FAIL_BODY_TOO_LARGE, FAIL_GRPC_ONLY, FAIL_METHOD, FAIL_NOT_IMPLEMENTED, FAIL_NO_ROUTE,
    FAIL_OVERLOADED,
)
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free
from lb.http.grpc.text cimport grpc_timeout_ns
from lb.http.head cimport H_EXPECT, H_GRPC_TIMEOUT, M_OTHER, Field, Scan, has_token
from lb.http.head_text cimport append_text
from lb.http.methods cimport method_number
from lb.net.poller cimport Poller
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport SERIES_STARTED
from lb.proxy.routing.actions cimport admit as apply_actions
from lb.proxy.routing.headers.aliases cimport hide_aliases
from lb.proxy.routing.answer cimport give_answer, give_preflight
from lb.http.grpc.protobuf cimport span
from lb.inference.paths cimport MATCH, MATCH_ESCAPED, decode_model, match_infer
from lb.proxy.client.client cimport Client
from lb.proxy.routing.conditions cimport facts_of, tg_facts
from lb.proxy.routing.cors cimport preflight_method
from lb.proxy.exchange.authentication cimport authenticate
from lb.proxy.exchange.delay cimport delayed
from lb.proxy.exchange.cached_call cimport new_cached_call
from lb.proxy.exchange.answer_decoder cimport decode_answer
from lb.proxy.exchange.compressor cimport compress
from lb.proxy.exchange.exchange cimport Exchange, forget_explanation
from lb.proxy.routing.headers.fields cimport find_agent
from lb.proxy.routing.headers.forwarded cimport tg_ids
from lb.http.grpc.web cimport WEB_BINARY, WEB_NONE
from lb.proxy.exchange.grpc_web_codec cimport web_kind_of
from lb.proxy.exchange.http1_attempt cimport Http1Attempt
from lb.proxy.exchange.http2_attempt cimport Http2Attempt
from lb.proxy.exchange.http_cache.fill cimport HttpCache
from lb.proxy.exchange.http_cache.lookup cimport through_http_cache
from lb.proxy.exchange.inference_attempt cimport InferenceAttempt
from lb.proxy.exchange.inference_body cimport InferContext
from lb.proxy.exchange.pacer cimport pace
from lb.proxy.exchange.pool_call cimport asks_pool, new_pool_call
from lb.proxy.exchange.request_decoder cimport decode_request
from lb.proxy.exchange.request_key cimport find_request_key, within_rate
from lb.proxy.routing.last_hop cimport answers_last_hop
from lb.proxy.routing.normalize cimport (
    NORMAL_HIDE_ALIASES, NORMAL_READINGS, NORMAL_REFUSE_ALIASES, is_target, normalize,
)
from lb.proxy.accept.overload cimport Overload
from lb.proxy.routing.readings cimport reads_alike
from lb.proxy.exchange.tracking cimport track
from lb.proxy.exchange.refusal cimport SPEAKS_GRPC, SPEAKS_HTTP, SPEAKS_WEB, SPEAKS_WEB_TEXT, speaks_grpc
from lb.proxy.routing.route cimport Route, RouteTable
from lb.upstream.attempt cimport Attempt
from lb.upstream.pool cimport KEY_PATH, POOL_GRPC, POOL_HTTP, POOL_HTTP2, POOL_OIP, Pool

from lb.inference.errors import OipError

cdef enum:
    M_GET = 1                         # llhttp's numbers
    M_HEAD = 2
    M_POST = 3
    M_OPTIONS = 6
    M_TRACE = 7
    METHOD_KEPT = 18                  # what a record of the access log has room for
    AGENT_KEPT = 128


cdef class Admission:
    """`context` is what exchanges with pools of the Open Inference Protocol share."""

    def __init__(self, Poller poller, InferContext context not None, Overload overload):
        self.poller = poller
        self.context = context
        self.overload = overload
        self.http_cache = HttpCache(context)

    def drain(self):
        """From now on every answer is its connection's last."""
        self.draining = True

    def in_flight(self):
        return self.busy

    def prepare(self, plan, loop):
        """What of a new plan of the result cache, or None, takes files and threads of its own."""
        self.http_cache.prepare(plan, loop)

    def close(self):
        self.http_cache.close()

    def http_cache_in_flight(self):
        """Of HTTP caching: flights, URIs of which something is being made, and the bytes of that."""
        return self.http_cache.in_flight()

    cdef Exchange admit(self, Client client, Scan *scan, const char *host, size_t host_length, const char *model,
                        size_t model_length):
        cdef tg_facts facts
        cdef Route route = None
        cdef Pool pool = None
        cdef Exchange exchange
        cdef bint other_method = False, preflight = False, named = False
        cdef const Field *origin
        cdef tg_ids *ids = NULL
        cdef uint32_t kept
        # RFC 8441 section 5: what is an extended CONNECT in HTTP/2 is a GET in HTTP/1.1, and in the configuration.
        cdef int method = M_GET if scan.websocket else scan.method
        if not is_target(scan):
            client.reject(FAIL_BAD_REQUEST, "the request target has a fragment, or bytes beyond ASCII")
            return None
        if client.listener.normalize and normalize(scan, client.listener.normalize) < 0:
            client.reject(FAIL_BAD_REQUEST, "the path has no normal form")
            return None
        if (client.listener.normalize & (NORMAL_HIDE_ALIASES | NORMAL_REFUSE_ALIASES)
                and hide_aliases(scan, (<RouteTable>client.listener.table).guarded)
                and client.listener.normalize & NORMAL_REFUSE_ALIASES):
            client.reject(FAIL_BAD_REQUEST, "a header is another spelling of one that is not for clients to choose")
            return None
        # Conditions, keys and limits go by the same client: by the word of trusted proxies, where there are some.
        if client.listener.hop.wants_ids:
            ids = client.listener.hop.identify(scan, client.ip, client.ip_length)
        if ids != NULL and ids.source_length:
            facts_of(&facts, scan, host, host_length, method, ids.source, ids.source_length)
        else:
            facts_of(&facts, scan, host, host_length, method, client.ip, client.ip_length)
        if model != NULL:
            route = self.find_model(client, &facts, model, model_length)
            named = route is not None
        elif method == M_OPTIONS and (<RouteTable>client.listener.table).cors:
            route = self.find_asked(client, &facts)
            preflight = route is not None
        if route is None:
            route = (<RouteTable>client.listener.table).find(&facts, &other_method)
        if route is None:
            if other_method:
                reject_method(client, &facts)
            else:
                client.reject(FAIL_NO_ROUTE, "Not Found")
            free(ids)                         # the facts may point into it
            return None
        if (client.listener.normalize & NORMAL_READINGS and not preflight and not named
                and not reads_alike(<RouteTable>client.listener.table, &facts, route)):
            free(ids)
            client.reject(FAIL_BAD_REQUEST, "the path can be read in two ways, which lead to different routes")
            return None
        if not preflight:
            pool = route.choose(&facts)
            if scan.websocket and not takes_websockets(route, pool):
                free(ids)
                client.reject(FAIL_NOT_IMPLEMENTED, "WebSockets are not served here")
                return None
        exchange = Exchange.__new__(Exchange)
        if pool is None:                      # the route answers itself
            exchange.preflight = preflight
            exchange.grpc = SPEAKS_GRPC if not preflight and scan.version == 20 and speaks_grpc(scan) else SPEAKS_HTTP
        elif not self.equip(exchange, scan, route, pool):
            free(ids)
            client.reject(FAIL_GRPC_ONLY, f"the pool {pool.name} speaks gRPC only")
            return None
        tg_add(&route.series[SERIES_STARTED], 1)
        exchange.started = client.poller.now
        exchange.client = client
        exchange.listener = client.listener
        exchange.route = route
        exchange.pool = pool
        if pool is not None and pool.protocol != POOL_OIP and not exchange.grpc and method == M_POST:
            name_model(exchange, scan)
        if route.retry is not None:
            exchange.retries_left = route.retry.attempts
        elif pool is not None:
            exchange.retries_left = pool.retries
        exchange.version = scan.version
        exchange.method = method
        exchange.http10 = scan.version == 10
        exchange.head_method = scan.method == M_HEAD
        exchange.request_complete = False
        exchange.ids = ids
        if client.listener.sampler is not None:
            self.sample(exchange, scan)
        if route.timeout:
            exchange.expires = exchange.started + route.timeout
        if exchange.grpc and scan.first[H_GRPC_TIMEOUT] >= 0:
            take_grpc_timeout(exchange, &scan.fields[scan.first[H_GRPC_TIMEOUT]])
        if exchange.expires != UINT64_MAX:
            self.poller.arm(exchange, exchange.expires)
        if exchange.recorded():
            tg_buffer_append(&exchange.target, host, host_length)
            exchange.host_length = <uint32_t>host_length
            tg_buffer_append(&exchange.target, scan.target,
                             exchange.listener.access.shown(scan.target, scan.target_length))
            keep_agent(exchange, scan)
            if method == M_OTHER:
                kept = min(scan.method_length, <uint32_t>METHOD_KEPT)
                if tg_buffer_append(&exchange.target, scan.method_text, kept) == 0:
                    exchange.method_length = <unsigned short>kept
        if route.cors is not None:
            origin = route.cors.origin_of(scan)
            if origin != NULL and tg_buffer_append(&exchange.target, origin.value, origin.value_length) == 0:
                exchange.origin_length = <unsigned short>origin.value_length
        self.busy += 1
        return exchange

    cdef void sample(self, Exchange exchange, Scan *scan) noexcept:
        """Whether its choice is to be explained; it has one where there is a pool."""
        cdef size_t n
        cdef const char *source = exchange.source_address(&n)
        cdef int wanted = exchange.listener.sampler.wants(scan, source, n)
        if wanted and exchange.pool is not None:
            forget_explanation(exchange)      # whoever had this address before
            exchange.explained = <unsigned char>wanted

    cdef Route find_model(self, Client client, tg_facts *facts, const char *model, size_t model_length):
        cdef bint other_method = False
        cdef RouteTable table = <RouteTable>client.listener.table
        cdef Route route = table.find_model(facts, model, model_length, &other_method)
        if route is None or not route.by_model:
            return None
        # Endpoints that speak HTTP/1.1 have no use for it: it was meant for REST alone.
        if route.pool is not None and route.pool.protocol == POOL_HTTP:
            return None
        return route

    cdef Route find_asked(self, Client client, tg_facts *facts):
        """The route of the request that a preflight request asks for, if it is one and that route has CORS."""
        cdef const Field *wanted = preflight_method(facts.scan)
        cdef tg_facts asked
        cdef Scan *scan = <Scan *>facts.scan
        cdef Route route
        cdef bint other_method
        if wanted == NULL:
            return None
        memcpy(&asked, facts, sizeof(asked))
        asked.method = method_number(wanted.value, wanted.value_length)
        if asked.method < 0:
            return None
        scan.method_text = wanted.value
        scan.method_length = wanted.value_length
        route = (<RouteTable>client.listener.table).find(&asked, &other_method)
        return route if route is not None and route.cors is not None else None

    cdef bint equip(self, Exchange exchange, Scan *scan, Route route, Pool pool) noexcept:
        cdef Attempt attempt
        cdef int protocol = pool.protocol
        cdef bint grpc = scan.version == 20 and speaks_grpc(scan)
        cdef int web
        exchange.grpc = SPEAKS_GRPC if grpc else SPEAKS_HTTP
        if protocol == POOL_HTTP:
            attempt = Http1Attempt.__new__(Http1Attempt)
        elif ((protocol == POOL_OIP or pool.awaits_start) and (grpc or web_kind_of(scan) != WEB_NONE)
                and asks_pool(scan, pool, route.server_calls)):
            if not grpc:
                exchange.grpc = SPEAKS_WEB if web_kind_of(scan) == WEB_BINARY else SPEAKS_WEB_TEXT
            attempt = Attempt.__new__(Attempt)       # which is never made: the master asks
            exchange.source = new_pool_call(self.context.ask, exchange, scan)
        elif protocol == POOL_HTTP2 or grpc and (protocol == POOL_GRPC or protocol == POOL_OIP):
            attempt = Http2Attempt.__new__(Http2Attempt)
        else:
            web = web_kind_of(scan)
            if web != WEB_NONE:
                exchange.grpc = SPEAKS_WEB if web == WEB_BINARY else SPEAKS_WEB_TEXT
                attempt = Http2Attempt.__new__(Http2Attempt)
            elif protocol == POOL_OIP:
                attempt = InferenceAttempt.__new__(InferenceAttempt)
                exchange.source = self.context.new_body()
            else:
                return False
        if route.cache and protocol == POOL_OIP and exchange.grpc and exchange.source is None:
            exchange.source = new_cached_call(self.context.answers, exchange.grpc, scan)
        attempt.owner = exchange              # until Exchange.record
        exchange.attempt = attempt
        return True

    cdef void start(self, Exchange exchange, Scan *scan) noexcept:
        if self.overload.refuses(self.busy):
            exchange.request_complete = scan.complete     # then the connection can go on
            exchange.fail(FAIL_OVERLOADED, "too much is in flight here")
            return
        if exchange.preflight:
            give_preflight(exchange, scan)
            return
        if exchange.route.tracking is not None and exchange.route.tracking.early and not track(exchange, scan, False):
            return
        if exchange.route.rate is not None and not exchange.route.rate.key.by_identity and (
                not within_rate(exchange, scan)
                or exchange.route.rate.delays and delayed(exchange, scan, self, go_on_rated)):
            return
        self.enter(exchange, scan)

    cdef void enter(self, Exchange exchange, Scan *scan) noexcept:
        if exchange.route.guard is not None and not authenticate(exchange, scan, self, go_on):
            return
        self.proceed(exchange, scan)

    cdef void proceed(self, Exchange exchange, Scan *scan) noexcept:
        if exchange.route.tracking is not None and exchange.route.tracking.late and not track(exchange, scan, True):
            return
        if exchange.route.rate is not None and exchange.route.rate.key.by_identity and (
                not within_rate(exchange, scan)
                or exchange.route.rate.delays and delayed(exchange, scan, self, go_on_known)):
            return
        self.settle(exchange, scan)

    cdef void settle(self, Exchange exchange, Scan *scan) noexcept:
        if exchange.route.quotas is not None and not exchange.take_quotas(scan):
            return
        if scan.has_length and scan.content_length > exchange.route.max_body:
            exchange.fail(FAIL_BODY_TOO_LARGE,
                          f"the request's body is over the limit of {exchange.route.max_body} bytes")
            return
        if exchange.method == M_OPTIONS or exchange.method == M_TRACE:
            if answers_last_hop(exchange, scan):
                return
        if exchange.pool is not None and exchange.pool.key_kind >= KEY_PATH:
            find_request_key(exchange, scan)
        if exchange.route.bandwidth is not None:
            pace(exchange, scan)
        if exchange.route.compression is not None and not exchange.grpc and exchange.source is None:
            compress(exchange, scan)          # by what the client says, before the route changes it
        if (exchange.route.decompression is not None and exchange.route.decompression.answers and not exchange.grpc
                and exchange.source is None):
            decode_answer(exchange, scan)     # what it gives may be compressed
        if exchange.route.acts and not apply_actions(exchange, scan):
            return
        if (exchange.route.decompression is not None and exchange.route.decompression.requests and not exchange.grpc
                and exchange.source is None and not decode_request(exchange, scan)):
            return
        if not scan.complete and scan.version > 10 and scan.first[H_EXPECT] >= 0 and exchange.route.answer is None:
            if has_token(&scan.fields[scan.first[H_EXPECT]], b"100-continue"):
                exchange.client.send_continue()
        if exchange.attempt is None:
            give_answer(exchange, scan)
        elif exchange.route.http_cache is not None:
            through_http_cache(self.http_cache, exchange, scan)
        else:
            exchange.begin(scan)


cdef void go_on(object admission, Exchange exchange, Scan *scan) noexcept:
    (<Admission>admission).proceed(exchange, scan)


cdef void go_on_rated(object admission, Exchange exchange, Scan *scan) noexcept:
    (<Admission>admission).enter(exchange, scan)


cdef void go_on_known(object admission, Exchange exchange, Scan *scan) noexcept:
    (<Admission>admission).settle(exchange, scan)


cdef void name_model(Exchange exchange, Scan *scan) noexcept:
    """The model that the path names of an inference over REST, where no source reads it: for metrics."""
    cdef span model, version
    cdef int matched = match_infer(scan.target, scan.target_length, &model, &version)
    if matched == MATCH:
        exchange.path_model = model.data[:model.size]
    elif matched == MATCH_ESCAPED:
        try:
            exchange.path_model = decode_model(&model)
        except OipError:                      # the server will say so
            exchange.path_model = b""


cdef void take_grpc_timeout(Exchange exchange, const Field *field) noexcept:
    """The client's deadline is the exchange's from here on: it holds also while the call waits, for its turn by a
    limit, for the check of a credential or in a queue."""
    cdef uint64_t allowed = grpc_timeout_ns(field.value, field.value_length)
    if allowed and exchange.started + allowed < exchange.expires:
        exchange.expires = exchange.started + allowed


cdef void keep_agent(Exchange exchange, Scan *scan) noexcept:
    cdef const Field *agent = find_agent(scan)
    cdef uint32_t kept
    if agent != NULL:
        kept = min(agent.value_length, <uint32_t>AGENT_KEPT)
        if tg_buffer_append(&exchange.target, agent.value, kept) == 0:
            exchange.agent_length = <unsigned char>kept


cdef bint takes_websockets(Route route, Pool pool) noexcept:
    """Whether no answer to an extended CONNECT would say that it is granted although nobody speaks WebSocket."""
    if pool is None:
        return route.answer is not None and route.answer.status >= 300
    return pool.protocol == POOL_HTTP


cdef void reject_method(Client client, tg_facts *facts) noexcept:
    cdef bytes methods = (<RouteTable>client.listener.table).allowed(facts)
    cdef tg_buffer fields
    memset(&fields, 0, sizeof(fields))
    append_text(&fields, b"Allow: ")
    tg_buffer_append(&fields, <const char *>methods, <size_t>len(methods))
    append_text(&fields, b"\r\n")
    client.reject(FAIL_METHOD, "Method Not Allowed", &fields)
    tg_buffer_free(&fields)
