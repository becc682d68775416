"""Names that users of other load balancers type, and what to write here instead. Data only: lb.config.advice.advice
reads it.

A name is compared without its case, `-`, `_` and spaces. tests/config/test_config_foreign.py loads every snippet.
"""

from __future__ import annotations

from msgspec import Struct


class Advice(Struct, frozen=True):
    """What to write in place of some names: `snippet`, at the place `at`; without one the `note` says why there is
    nothing. Where the names stand is `within`; empty: anywhere."""

    names: str
    at: str = ""
    snippet: str = ""
    note: str = ""
    within: str = ""


# What the places are called in a message. The test has a whole file for each.
PLACES = {
    "config": "at the top of the file",
    "admin": "in admin",
    "cache": "in cache",
    "certificate": "in an entry of certificates",
    "compression": "in compression",
    "endpoint": "in an entry of endpoints",
    "health": "in health",
    "innermost group": "in a group of a group",
    "key": "in key",
    "listener": "in a listener",
    "map": "in an entry of maps",
    "match": "in match",
    "oip pool": "in a pool",
    "outlier": "in outlier",
    "path": "in match.path",
    "pool": "in a pool",
    "pool tls": "in tls of a pool",
    "queue": "in queue",
    "rate limit": "in rate_limit",
    "redirect": "in redirect",
    "respond": "in respond",
    "retry": "in retry",
    "route": "in a route",
    "serve": "in serve",
    "table": "in an entry of tables",
    "tcp listener": "in a listener of protocol tcp",
    "tcp pool": "in a pool of protocol tcp",
    "text": "in what a header is compared with",
    "tls": "in tls of a listener",
    "tracing": "in tracing",
    "udp listener": "in a listener of protocol udp",
}

_LISTENERS = 'listeners: {web: {bind: "0.0.0.0:8080", protocol: http, routes: [{pool: app}]}}'
_POOLS = 'pools: {app: {protocol: http, endpoints: ["10.0.0.1:8080", "10.0.0.2:8080"]}}'
_ENDPOINTS = 'endpoints: ["10.0.0.1:8080", {address: "10.0.0.2:8080", weight: 2}]'
_SOURCE_HASH = "policy: {type: maglev, key: {source: true}}"
_HEADER_HASH = "policy: {type: ring_hash, key: {header: x-session}}"
_HTTPS = "protocol: https, tls: {certificates: [{cert: site.pem, key: site.key}]}"
_CERTIFICATES = "certificates: [{cert: site.pem, key: site.key}]"
_FAILOVER = 'endpoints: ["10.0.0.1:8080", {address: "10.0.0.2:8080", priority: 1}]'
_CLIENT_AUTH = "client_auth: required, client_ca: ca.pem"
_COOKIE = "affinity: {cookie: {name: lb}}"
_LEARN = "affinity: {learn: {cookie: JSESSIONID}}"
_OUTLIER = "outlier: {consecutive_5xx: 5}"
_RATE = "rate_limit: {rate: 100/s}"
_TABLES = 'tables: {clients: {key: "${client.address}", store: [request_rate(10s)]}}'
_NO_DEFAULT = "what the map does not have stands where it is used: ${map.NAME:-default}"
_WEIGHTS = "the weights of endpoints count"

KEYS: tuple[Advice, ...] = (
    # the file
    Advice(
        "frontends frontend entrypoints entrypoint server vhost vhosts virtualhosts virtualservers listener listen http"
        " https stream tcp udp sites apps bind port ports",
        "config",
        _LISTENERS,
        within="config",
    ),
    Advice(
        "servers backends backend upstreams upstream clusters cluster services service targets targetgroups nodes"
        " members endpoints pool loadbalancers loadbalancer",
        "config",
        _POOLS,
        within="config",
    ),
    Advice("routes routers rules locations route location paths", "listener", "routes: [{pool: app}]", within="config"),
    Advice(
        "global defaults events main common",
        note="there is no such section: listeners and pools say it themselves, and YAML's anchors repeat it",
        within="config",
    ),
    Advice(
        "include includes import imports extends confd conffiles configfiles files",
        "pool",
        "discover: {file: {path: endpoints.yaml}}",
        "one file is read; only the endpoints of a pool can stand in another",
    ),
    Advice(
        "metrics prometheus stats statsd statsenable dashboard api apiserver monitoring telemetry ping healthz readyz"
        " metricspath metricsport",
        "config",
        "admin: {bind: 127.0.0.1:9900}",
        "/metrics, /healthz, /readyz, the API and the dashboard are there",
    ),
    Advice(
        "accesslog accesslogs logfile logging logs logformat customlog httplog optionhttplog",
        "config",
        "log: {access: /var/log/tidegate/access.log}",
        "one access log of JSON lines is for all listeners",
    ),
    Advice("log", "config", "log: {access: /var/log/tidegate/access.log}", within="listener route pool"),
    Advice(
        "loglevel errorlog verbosity verbose debug quiet logtarget",
        "config",
        "log: {level: info}",
        "the daemon's own log goes to standard error",
    ),
    Advice("file path output target", "config", "log: {access: /var/log/tidegate/access.log}", within="log"),
    Advice("format", note="the access log is JSON, one object a line", within="log"),
    Advice(
        "pid pidfile daemon daemonize user group runas uid gid chroot setuid",
        note="the service manager does that: see systemd/tidegate.service",
        within="config",
    ),
    Advice(
        "workerprocesses nbproc nbthread threads workerthreads processes numworkers workercount concurrency cpus",
        "config",
        "workers: auto",
        "or a number",
        within="config",
    ),
    Advice(
        "workerrlimitnofile ulimit ulimitn nofile",
        note="the daemon takes as many descriptors as its hard limit allows (systemd: LimitNOFILE)",
    ),
    Advice(
        "draintimeout gracefultimeout shutdowntimeout gracefulshutdowntimeout hardstopafter graceperiod"
        " workershutdowntimeout terminationgraceperiod graceful",
        "config",
        "shutdown: {drain_timeout: 30s}",
    ),
    Advice(
        "opentelemetry otel otlp zipkin jaeger trace traces opentracing datadog",
        "config",
        'tracing: {endpoint: "http://127.0.0.1:4318/v1/traces"}',
    ),
    Advice(
        "sampling samplerate sampler samplingrate probability sampleratio", "tracing", "ratio: 0.1", within="tracing"
    ),
    Advice(
        "url collector address uri host", "tracing", 'endpoint: "http://127.0.0.1:4318/v1/traces"', within="tracing"
    ),
    Advice(
        "proxycache caching resultcache responsecache cachepath proxycachepath redis memcached",
        "config",
        "cache: {size: 256MiB, ttl: 10m}",
        "it keeps answers of inference (pools of protocol oip)",
    ),
    Advice("maxsize memory capacity maxmemory limit maxbytes", "cache", "size: 256MiB", within="cache"),
    Advice(
        "redis valkey memcached memcache backend store storage remote shared distributed l2 secondtier secondlevel",
        "cache",
        'tier: {type: redis, servers: ["10.0.0.5:6379"], secret_file: cache.secret}',
        "all daemons share it, behind the memory of each",
        within="cache",
    ),
    Advice("expire expires expiration expiry maxage valid inactive ttlseconds", "cache", "ttl: 10m", within="cache"),
    Advice("cachettl cachetime cachevalid proxycachevalid", note="write cache: {ttl: 10m}", within="route"),
    Advice("grace stale proxycachebackgroundupdate", "cache", "stale_while_revalidate: 1m", within="cache"),
    Advice("keep servestale proxycacheusestale", "cache", "stale_if_error: 10m", within="cache"),
    Advice("maxobjectsize maxentry maxentrysize objectsize", "cache", "max_object: 1MiB", within="cache"),
    Advice("address listen port host listenaddress addr", "admin", "bind: 127.0.0.1:9900", within="admin"),
    Advice(
        "auth token password apikey secret user username users basicauth authtoken",
        "admin",
        "token_file: /etc/tidegate/token",
        within="admin",
    ),
    Advice(
        "version apiversion kind schema name metadata spec id title description",
        note="the file needs none: leave it out",
        within="config",
    ),
    Advice(
        "enabled enable disabled disable active",
        note="the admin server is always there; bind: unix:/run/tidegate/admin.sock keeps it to this machine",
        within="admin",
    ),
    # how long
    Advice(
        "timeoutclient clienttimeout clientidletimeout keepalivetimeout timeouthttpkeepalive httpkeepalive"
        " connectionidletimeout",
        "listener",
        "idle_timeout: 75s",
        within="config listener",
    ),
    Advice("keepalivetimeout idleconntimeout", "pool", "idle_timeout: 60s", within="pool"),
    Advice(
        "timeouthttprequest clientheadertimeout readheadertimeout httprequesttimeout requestheaderstimeout",
        "listener",
        "header_timeout: 10s",
    ),
    Advice("clientbodytimeout requestbodytimeout", "listener", "body_timeout: 30s"),
    Advice("writetimeout clientsendtimeout", "listener", "send_timeout: 30s"),
    Advice("timeoutclientfin timeoutserverfin clientfin serverfin", "tcp listener", "half_close_timeout: 30s"),
    Advice("timeouttunnel tunneltimeout websockettimeout", "listener", "upgrade_idle_timeout: 1h"),
    Advice(
        "requesttimeout overalltimeout totaltimeout deadline", "route", "timeout: 30s", within="route listener config"
    ),
    Advice(
        "timeoutserver servertimeout proxyreadtimeout readtimeout upstreamtimeout backendtimeout proxytimeout"
        " grpcreadtimeout responseheadertimeout requesttimeout",
        "pool",
        "response_timeout: 60s",
    ),
    Advice("timeout", "pool", "response_timeout: 60s", "the `timeout` of a route is for the whole exchange", "pool"),
    Advice("timeout", "route", "timeout: 30s", within="listener config"),
    Advice(
        "timeouts", note="each has a key of its own: idle_timeout, header_timeout, connect_timeout, response_timeout, …"
    ),
    Advice(
        "timeoutconnect proxyconnecttimeout grpcconnecttimeout dialtimeout"
        " connectiontimeout conntimeout connecttimeout",
        "pool",
        "connect_timeout: 1s",
    ),
    Advice("timeoutqueue queuetimeout", "pool", "max_in_flight: 64, queue: {timeout: 30s}"),
    Advice("queuesize maxqueue maxpending maxpendingrequests", "pool", "max_in_flight: 64, queue: {max: 1024}"),
    Advice("timeoutcheck checktimeout healthtimeout", "pool", "health: {type: http, timeout: 1s}"),
    # how many
    Advice(
        "workerconnections maxconn maxconns maxclients connectionlimit maxconnection connections",
        "listener",
        "max_connections: 20000",
        within="config listener",
    ),
    Advice(
        "limitconn maxconnperip maxconnsperip perip", "listener", "max_connections_per_source: 100", within="listener"
    ),
    Advice(
        "maxconn maxconns limitconn maxconcurrent concurrencylimit maxrequests inflight maxconcurrency"
        " concurrency maxconnections inflightreq",
        "pool",
        "max_in_flight: 64",
        within="pool",
    ),
    Advice(
        "maxconn maxconns maxconcurrent maxrequests inflight maxconcurrency concurrency maxconnections limit",
        "endpoint",
        "max_in_flight: 64",
        within="endpoint",
    ),
    Advice(
        "maxconn maxconns limitconn maxconcurrent concurrencylimit maxrequests inflight maxinflight maxconcurrency"
        " concurrency maxconnections inflightreq",
        "route",
        "max_in_flight: 64",
    ),
    Advice(
        "limitrate limitrateafter bwlim bwlimin bwlimout filterbwlimout bandwidthlimit bandwidthlimits throughput",
        "route",
        "bandwidth: {per_request: 1MiB, after: 64KiB}",
    ),
    Advice(
        "ratelimit ratelimits ratelimiting limitreq throttle throttling rps requestspersecond"
        " rate limits limit"
        " qps quota localratelimit",
        "route",
        _RATE,
    ),
    Advice(
        "requests average limit rps requestspersecond value tokens", "rate limit", "rate: 100/s", within="ratelimit"
    ),
    Advice("per by zone source keyby", "rate limit", "rate: 100/s, key: {source: true}", within="ratelimit"),
    Advice(
        "clientmaxbodysize maxbodysize bodylimit requestbodylimit maxrequestbody"
        " maxrequestsize limitrequestbody maxsize"
        " maxrequestbytes bodysize maxbody",
        "route",
        "max_body: 64MiB",
    ),
    Advice(
        "largeclientheaderbuffers maxheadersize headerlimit maxrequestheaderskb clientheaderbuffersize",
        "listener",
        "max_header_bytes: 16KiB",
    ),
    # maps and tables
    Advice(
        "map geo mapfile mapstr mapbeg mapend mapdom mapreg mapip lookup lookups",
        "config",
        'maps: {tiers: {key: "${request.host}", match: domain, entries: {example.org: gold}}}',
        within="config listener route",
    ),
    Advice(
        "sticktable sticktables stickytable counters",
        "config",
        _TABLES,
        "with track: clients in a listener or a route",
        within="config listener route",
    ),
    Advice(
        "tracksc0 tracksc1 tracksc2 tracksc httprequesttracksc0 httprequesttracksc1"
        " tcprequestconnectiontracksc0 tcprequestcontenttracksc0",
        note="write track: NAME of one of tables at the top of the file, which says what it counts by",
    ),
    Advice(
        "limitreqzone limitconnzone limitzone ratelimitzone",
        note="a limit has no zone: write in a route rate_limit: {rate: 100/s, key: {source: true}}",
    ),
    Advice("source variable input string sample of", "map", 'key: "${request.host}"', within="map"),
    Advice("default fallback", note=_NO_DEFAULT, within="map"),
    Advice("hostnames volatile", "map", "match: domain", within="map"),
    Advice("type kind method mode", "map", "match: prefix", within="map"),
    Advice("values map data content rows pairs", "map", "entries: {example.org: gold}", within="map"),
    Advice("path filename", "map", "file: tiers.map", within="map"),
    Advice("type on by keys", "table", 'key: "${client.address}"', within="table"),
    Advice("stores counters data storing count", "table", "store: [requests, request_rate(10s)]", within="table"),
    Advice("ttl timeout expires expiry", "table", "expire: 10m", within="table"),
    # listeners
    Advice(
        "v6only ipv6only v4v6 transparent interface bindtodevice freebind",
        "listener",
        'bind: [{address: "[::]:8080", ipv6only: true}]',
        "or interface, or transparent",
        within="listener",
    ),
    Advice(
        "address listen port host ip addr bindaddress listenaddress binds bindto socket endpoint url listenon",
        "listener",
        'bind: "0.0.0.0:8080"',
        within="listener",
    ),
    Advice("mode type proto kind scheme", "listener", "protocol: http", within="listener"),
    Advice(
        "ssl certificate certificates cert certs crt pem key sslcertificate sslcert sslcertificatekey sslkey tlscert"
        " tlskey tlscertificate tlscertificates keyfile certfile certfiles https",
        "listener",
        _HTTPS,
        within="listener",
    ),
    Advice("ssl tls certificate certificates certs", "listener", _HTTPS, within="config route"),
    Advice(
        "locations location rules rule routers router route virtualhosts virtualhost paths path handle routeconfig"
        " matches",
        "listener",
        "routes: [{match: {path: {prefix: /v2/}}, pool: app}]",
        within="listener",
    ),
    Advice(
        "defaultbackend usebackend backend backends upstream upstreams cluster proxypass reverseproxy service services"
        " target targets to forward servers endpoints defaultpool grpcpass",
        "listener",
        "routes: [{pool: app}]",
        within="listener",
    ),
    Advice("policy balance health", "pool", "policy: least_request, health: {type: http}", within="listener route"),
    Advice(
        "acceptproxy proxy sendproxy proxyprotocolv2",
        "listener",
        "proxy_protocol: {from: [10.0.0.0/8]}",
        within="listener",
    ),
    Advice(
        "forwardfor optionforwardfor xforwardedfor xff useremoteaddress forwardheaders forwardedheaders"
        " xforwardedheaders",
        "listener",
        "forwarded: append",
        within="listener",
    ),
    Advice(
        "setrealipfrom realipheader realip trustedips xffnumtrustedhops trustedhops trustedproxy trusted",
        "listener",
        "trusted_proxies: [10.0.0.0/8]",
        within="listener",
    ),
    Advice("websocket websockets upgrade", "listener", "upgrades: [websocket]"),
    Advice("http3 quic h3", note="HTTP/3 is not spoken here"),
    Advice("h2 h2c enablehttp2 enableh2c", "listener", "http2: {enabled: true}", within="listener"),
    Advice("uniqueidheader generaterequestid xrequestid requestidheader correlationid", "listener", "request_id: true"),
    Advice("servername servernames hostname hostnames host hosts domains domain", "match", "host: example.org"),
    Advice("backlog", note="the kernel's limit holds: net.core.somaxconn", within="listener"),
    Advice("reuseport reuseaddr tcpnodelay nodelay sendfile tcpnopush", note="Tidegate does that by itself"),
    Advice("keepaliverequests keepalive", "listener", "idle_timeout: 75s", within="listener"),
    Advice(
        "acl acls allow whitelist ipwhitelist ipallowlist allowlist accesscontrol allowfrom",
        "route",
        "match: {source: [10.0.0.0/8]}",
    ),
    Advice("deny blacklist ipblacklist denylist blocklist", "route", "match: {not_source: [10.0.0.0/8]}"),
    Advice(
        "auth authentication authbasic basicauth httpbasic jwt oidc oauth oauth2 forwardauth authrequest apikey apikeys"
        " authjwt userlist users password extauthz",
        note="clients are known by providers of the section auth, which routes name: docs/howto/let-clients-in.md",
    ),
    # routes
    Advice("default isdefault catchall", note="a route without match takes what no other does", within="route"),
    Advice("action do then", note="a route has one of pool, pools, redirect and respond", within="route"),
    Advice(
        "buffering proxybuffering proxyrequestbuffering requestbuffering responsebuffering buffer buffers proxybuffers"
        " proxybuffersize streaming flushinterval",
        note="bodies are passed on as they come; a request up to retry_buffer of its listener is kept for retries",
        within="route listener pool config",
    ),
    Advice("to url uri target", "redirect", "scheme: https, host: example.org", within="redirect"),
    Advice("code statuscode permanent type responsecode", "redirect", "scheme: https, status: 308", within="redirect"),
    Advice("port", "redirect", 'host: "example.org:8443"', within="redirect"),
    Advice("query stripquery", "redirect", "scheme: https, drop_query: true", within="redirect"),
    Advice(
        "uri url path paths location prefix pathprefix pathbeg pathprefixes startswith uris urls rule",
        "route",
        "match: {path: {prefix: /v2/}}",
        within="route",
    ),
    Advice("pathregex pathregexp regex", "route", "match: {path: {regex: '^/v[0-9]+/'}}", within="route"),
    Advice("exact exactpath", "route", "match: {path: {exact: /v2}}", within="route"),
    Advice(
        "host hosts hostname domain domains servername servernames authority",
        "route",
        "match: {host: example.org}",
        within="route",
    ),
    Advice("method methods", "route", "match: {method: [GET, HEAD]}", within="route"),
    Advice("header headers", "route", "match: {headers: {x-team: blue}}", within="route"),
    Advice("query queryparams params", "route", 'match: {query: {debug: "1"}}', within="route"),
    Advice("source sourceip clientip src remoteip from", "route", "match: {source: [10.0.0.0/8]}", within="route"),
    Advice("model models", "route", "match: {model: digits}", within="route"),
    Advice("matches matcher condition conditions when if", "route", "match: {path: {prefix: /v2/}}", within="route"),
    Advice(
        "proxypass usebackend defaultbackend backend upstream cluster service target"
        " to reverseproxy forward destination"
        " grpcpass forwardto uwsgipass endpoint endpoints servers proxy",
        "route",
        "pool: app",
        within="route",
    ),
    Advice(
        "backends upstreams clusters services weightedclusters split trafficsplit weighted splitclients"
        " backendrefs targets",
        "route",
        "pools: [{pool: app, weight: 90}, {pool: canary, weight: 10}]",
        within="route",
    ),
    Advice(
        "return static directresponse response fixedresponse staticresponse respondwith",
        "route",
        "respond: {status: 200, body: ok}",
        within="route",
    ),
    Advice(
        "redir httpsredirect forcehttps sslredirect redirectscheme httptohttps redirectto redirects redirectregex",
        "route",
        "redirect: {scheme: https, status: 308}",
    ),
    Advice("redirect", "route", "redirect: {scheme: https, status: 308}", within="listener config"),
    Advice(
        "stripprefix prefixrewrite rewriteprefix urirewrite replacepath rewritepath addprefix handlepath replaceprefix"
        " regexrewrite",
        "route",
        "match: {path: {prefix: /api/}}, rewrite: {prefix: /}",
    ),
    Advice(
        "proxysetheader requestheaderstoadd headersup setheaders customrequestheaders headerstoadd addheaders setheader"
        " httprequest requestheader",
        "route",
        "request_headers: {set: {x-team: blue}}",
    ),
    Advice(
        "addheader httpresponse responseheaderstoadd headersdown customresponseheaders responseheader",
        "route",
        "response_headers: {set: {x-served-by: tidegate}}",
    ),
    Advice(
        "proxyhideheader hideheader removeheader removeheaders responseheaderstoremove",
        "route",
        "response_headers: {remove: [server]}",
    ),
    Advice(
        "hsts stricttransportsecurity",
        "route",
        "response_headers: {set: {strict-transport-security: max-age=31536000}}",
    ),
    Advice(
        "retries maxretries retrycount numretries proxynextupstreamtries nextupstreamtries attempts",
        "route",
        "retry: {attempts: 2}",
        within="route listener config",
    ),
    Advice(
        "retry retrypolicy maxretries retrycount numretries attempts proxynextupstreamtries lbretries",
        "pool",
        "retries: 2",
        "what a request is tried again after stands in `retry` of a route",
        within="pool",
    ),
    Advice(
        "retryon proxynextupstream nextupstream redispatch optionredispatch retrypolicy"
        " lbtryduration tryduration retry",
        "route",
        "retry: {attempts: 2, on: [connect, reset, 5xx]}",
    ),
    Advice("nonidempotent idempotent", "route", "idempotent: true", within="retry"),
    Advice("retries count max tries maxretries numretries limit", "retry", "attempts: 2", within="retry"),
    Advice("retryon conditions when statuscodes", "retry", "on: [connect, reset, 5xx]", within="retry"),
    Advice("timeout trytimeout attempttimeout pertrytimeout", "retry", "per_attempt_timeout: 2s", within="retry"),
    Advice("delay interval initialinterval pause wait retrybackoff", "retry", "backoff: {base: 25ms}", within="retry"),
    Advice("hedging hedgepolicy speculative requesthedging", "route", "hedge: {after: p95}"),
    Advice(
        "shadow mirroring requestmirrorpolicies requestmirrorpolicy trafficmirror mirrorto",
        "route",
        "mirror: {pool: canary}",
    ),
    Advice(
        "proxyredirect proxypassreverse proxycookiepath proxycookiedomain proxycookieflags proxypassreversecookiepath"
        " proxypassreversecookiedomain redirectrewrite locationrewrite",
        "route",
        "response_rewrite: {location: default, cookie_path: {/app/: /}}",
    ),
    Advice(
        "errorpage errordocument errorfile errorfiles httperror localreply localreplyconfig proxyintercepterrors"
        " errorhandlers handleerrors customerrors errors",
        "route",
        'error_pages: [{on: [502, 503, 504], body: "<h1>Back soon</h1>"}]',
    ),
    Advice("corspolicy", "route", 'cors: {allow_origins: ["https://app.example.org"]}'),
    Advice(
        "gzip compress compressor brotli encode zstd gziptypes gzipminlength gzipcomplevel gzipproxied"
        " filtercompression gzipvary brotlitypes compressiontype compressionalgo",
        "route",
        "compression: {codings: [gzip], types: [text/html, application/json]}",
    ),
    Advice(
        "gunzip responsedecompression",
        "route",
        "decompression: {requests: false, answers: true}",
    ),
    Advice(
        "decompress decompressor inflate requestdecompression filterdecompression",
        "route",
        "decompression: {codings: [gzip, deflate]}",
    ),
    Advice(
        "waf lua plugin plugins middlewares middleware filters httpfilters wasm script njs",
        note="there are none; routes have rewrite, request_headers, response_headers, rate_limit and cors",
    ),
    Advice("root fileserver alias tryfiles index", note="no files are served here; an endpoint does that"),
    # match
    Advice(
        "uri url location prefix pathprefix pathbeg paths startswith uris urls route",
        "match",
        "path: {prefix: /v2/}",
        within="match",
    ),
    Advice("pathregex pathregexp regex pathreg", "match", "path: {regex: '^/v[0-9]+/'}", within="match"),
    Advice("exact pathexact exactpath", "match", "path: {exact: /v2}", within="match"),
    Advice("hosts authority", "match", "host: example.org", within="match"),
    Advice("hostregexp hostreg", "match", "host_regex: '^www[.]'", within="match"),
    Advice("methods", "match", "method: [GET, HEAD]", within="match"),
    Advice("header hdr", "match", "headers: {x-team: blue}", within="match"),
    Advice(
        "queryparams params querystring args urlparam querystringparameters",
        "match",
        'query: {debug: "1"}',
        within="match",
    ),
    Advice("cookie", "match", "cookies: {group: beta}", within="match"),
    Advice("src sourceip clientip remoteip ip cidr from remoteaddr", "match", "source: [10.0.0.0/8]", within="match"),
    Advice("service grpcservice", "match", "grpc: {service: inference.GRPCInferenceService}", within="match"),
    Advice("sni", note="a listener of protocol tls chooses by it, in sni_routes", within="match"),
    Advice("any none", note="groups nest two deep: write these conditions one level up", within="innermostgroup"),
    Advice("not unless except exclude", "match", "none: [{headers: {x-team: blue}}]", within="match"),
    Advice(
        "or oneof anyof ormatch",
        "match",
        "any: [{headers: {x-team: blue}}, {source: [10.0.0.0/8]}]",
        within="match",
    ),
    Advice("and all allof andmatch", note="conditions that stand side by side all have to hold", within="match"),
    Advice("in list values anyof", "text", "one_of: [a, b]", within="text"),
    Advice("not ne notequal notequals invertmatch negate inverse", "text", "exact: blue, invert: true", within="text"),
    Advice("file acl lst", "text", "exact: blue", "a list from a file is one of maps, as map: NAME", within="text"),
    Advice("equals equal eq is value string str", "text", "exact: blue", within="text"),
    Advice("startswith beg begins beginswith prefixmatch", "text", "prefix: blue", within="text"),
    Advice("endswith end ends suffixmatch", "text", "suffix: blue", within="text"),
    Advice("sub substring containsmatch include includes", "text", "contains: blue", within="text"),
    Advice("re regexp reg saferegex saferegexmatch regularexpression", "text", "regex: '^blue'", within="text"),
    Advice("exists found presentmatch", "text", "present: true", within="text"),
    Advice("code statuscode", "respond", "status: 404", within="respond"),
    Advice("contenttype type mime mimetype", "respond", "headers: {Content-Type: text/html}", within="respond"),
    Advice("bodyfile path filename lffile", "respond", "file: sorry.html", within="respond"),
    Advice("text string lfstring message messagebody content", "respond", "body: ok", within="respond"),
    Advice("algo algorithm algorithms encodings coding algos", "compression", "codings: [gzip]", within="compression"),
    Advice("level complevel compressionlevel quality", "compression", "gzip_level: 4", within="compression"),
    Advice(
        "minsize minimumlength mincontentlength minimumsize", "compression", "min_length: 1KiB", within="compression"
    ),
    Advice(
        "mimetypes contenttypes contenttype",
        "compression",
        "types: [text/html, application/json]",
        within="compression",
    ),
    Advice("startswith beg begins beginswith pathprefix value starts", "path", "prefix: /v2/", within="path"),
    Advice("equals equal full is eq", "path", "exact: /v2", within="path"),
    Advice("regexp re matches match regularexpression saferegex", "path", "regex: '^/v[0-9]+/'", within="path"),
    Advice("pattern glob wildcard pathtemplate", "path", 'template: "/v2/models/{model}/infer"', within="path"),
    # TLS
    Advice(
        "cert certificate crt key certs sslcertificate chain keyfile certfile pem tlscertificates keypairs",
        "tls",
        _CERTIFICATES,
        within="tls",
    ),
    Advice(
        "mintlsversion sslprotocols protocols protocol sslminver versions version tlsversions minimumversion minver"
        " tlsminimumprotocolversion",
        "tls",
        "min_version: tls1.3",
        within="tls",
    ),
    Advice("ciphersuites sslciphers cipher", "tls", "ciphers: ECDHE-RSA-AES128-GCM-SHA256", within="tls"),
    Advice(
        "clientcertificate verify verifyclient sslverifyclient mtls clientauthentication requireclientcert"
        " requireclientcertificate cafile ca clientcas trustedca sslclientcertificate",
        "tls",
        _CLIENT_AUTH,
        within="tls",
    ),
    Advice("alpnprotocols npn", "tls", "alpn: [h2, http/1.1]", within="tls"),
    Advice(
        "acme letsencrypt autohttps autocert certresolver acmecertificate acmeissuer",
        note="an ACME client gets certificates, and its files are read again when they change: docs/howto/acme.md",
    ),
    Advice("ocsp stapling sslstapling ocspstapling", "certificate", "ocsp_file: site.ocsp", within="tls certificate"),
    Advice(
        "certificate crt pem certfile certpath chain fullchain sslcertificate certificatefile certificatechain",
        "certificate",
        "cert: site.pem",
        within="certificate",
    ),
    Advice("privatekey keyfile keypath sslcertificatekey", "certificate", "key: site.key", within="certificate"),
    Advice(
        "sni domains hosts servernames servername domain", "certificate", "names: [example.org]", within="certificate"
    ),
    Advice(
        "ca cacert cacertificate trustedca rootcas rootca cafiles cabundle verifyca clientca",
        "pool tls",
        "ca_file: ca.pem",
        within="pooltls",
    ),
    Advice(
        "verify verifypeer sslverify verifyhostname skipverify insecure tlsinsecureskipverify rejectunauthorized",
        "pool tls",
        "insecure_skip_verify: false",
        "endpoints are verified unless it is true",
        within="pooltls",
    ),
    Advice("sni host hostname checksni proxysslname", "pool tls", "server_name: models.example.org", within="pooltls"),
    Advice(
        "certificate crt certfile keyfile clientcert clientcertificate",
        "pool tls",
        "cert: us.pem, key: us.key",
        within="pooltls",
    ),
    Advice("protocols version mintlsversion", "pool tls", "min_version: tls1.3", within="pooltls"),
    # pools
    Advice(
        "servers server backends backend upstreams upstream targets target members nodes hosts addresses address"
        " instances endpoint urls url loadassignment clusters host uri",
        "pool",
        _ENDPOINTS,
        within="pool",
    ),
    Advice(
        "balance lbpolicy loadbalancing algorithm strategy lbmethod method loadbalancingpolicy loadbalancer lb"
        " lbalgorithm balancing scheduler policies",
        "pool",
        "policy: auto",
    ),
    Advice("policy", "pool", "policy: auto", within="config"),
    Advice("mode type proto scheme kind", "pool", "protocol: http", within="pool"),
    Advice("hash hashkey hashon hashby hashpolicy hashtype", "pool", _HEADER_HASH),
    Advice("weight weights", "pool", _ENDPOINTS, within="pool listener"),
    Advice(
        "sticky stickysession stickysessions stickiness stickycookie sessionaffinity sessionpersistence persistence"
        " session cookie cookies insertcookie persist",
        "pool",
        _COOKIE,
    ),
    Advice("sticktable", "pool", _LEARN, "or, to count by key, tables at the top of the file", within="pool"),
    Advice("appsession stickon stick stickmatch stickystore stickylearn", "pool", _LEARN),
    Advice("affinity", "pool", _COOKIE, within="config listener route endpoint"),
    Advice(
        "healthcheck healthchecks check checks optionhttpchk httpchk probe probes readiness liveness activehealthcheck"
        " active healthuri httpcheck tcpcheck",
        "pool",
        "health: {type: http, path: /healthz}",
    ),
    Advice("health", "pool", "health: {type: http, path: /healthz}", within="config endpoint"),
    Advice(
        "passivehealthcheck passive outlierdetection circuitbreaker circuitbreakers"
        " circuitbreaking maxfails failtimeout"
        " observe onerror errorlimit unhealthystatus maxfailures ejection",
        "pool",
        _OUTLIER,
    ),
    Advice(
        "ssl https secure transportsocket tlscontext sslverify proxyssl verify insecure usetls backendtls sni",
        "pool",
        "tls: {}",
        within="pool",
    ),
    Advice(
        "bind proxybind sourceaddress interface upstreambindconfig usesrc",
        "pool",
        "source: 10.0.0.1",
        within="pool",
    ),
    Advice("slowstart slowstartconfig warmup", "pool", "slow_start: 30s"),
    Advice("proxyprotocol sendproxyv2 sendproxy", "tcp pool", "send_proxy: v2"),
    Advice(
        "keepalive keepaliveconnections maxidleconns maxidleconnections poolsize", "pool", "max_idle: 64", within="pool"
    ),
    Advice("backup backups fallback fallbacks failover", "pool", _FAILOVER, within="pool"),
    Advice(
        "resolvers resolver dns servicediscovery discovery sd consul kubernetes k8s docker"
        " etcd eureka srv resolve filesd"
        " dnssd nomad providers",
        "pool",
        "discover: {dns: {name: models.internal, port: 8001}}",
        within="config pool",
    ),
    Advice("zone", "pool", 'endpoints: [{address: "10.0.0.1:8080", zone: a}]', within="pool"),
    Advice(
        "replicas instances count numreplicas minreplicas maxreplicas",
        note="each server is one of endpoints; how many Tidegate starts itself is serve: {models: models, min: 2}",
        within="pool",
    ),
    Advice(
        "size limit length maxsize maxlength maxpending maxqueue depth capacity maxrequests",
        "queue",
        "max: 1024",
        within="queue",
    ),
    Advice("maxwait wait waittimeout timeoutqueue maxtime", "queue", "timeout: 30s", within="queue"),
    Advice(
        "consecutiveerrors consecutive5xxerrors consecutive5xxfailures consecutivefailures consecutiveservererrors"
        " maxfails maxfailures threshold failures errors errorlimit errorthreshold failurethreshold fails",
        "outlier",
        "consecutive_5xx: 5",
        within="outlier",
    ),
    Advice(
        "consecutivegatewayerrors consecutivegatewayfailures consecutivelocaloriginfailure gatewayerrors",
        "outlier",
        "consecutive_gateway_failure: 5",
        within="outlier",
    ),
    Advice(
        "ejectiontime failtimeout duration timeout sleepwindow recoverytime fallbackduration recoveryduration",
        "outlier",
        "base_ejection_time: 30s",
        within="outlier",
    ),
    Advice("maxejection maxejected ejectionpercent", "outlier", "max_ejection_percent: 50", within="outlier"),
    Advice("host hostname authority", "key", 'text: "${request.host}"', within="key"),
    Advice("method", "key", 'text: "${request.method}${request.path}"', within="key"),
    Advice("url requesturi", "key", "uri: true", within="key"),
    Advice("ip clientip sourceip src remoteaddr address client", "key", "source: true", within="key"),
    Advice("param parameter queryparam urlparam arg", "key", "query: user", within="key"),
    Advice("hdr headername httpheader", "key", "header: x-session", within="key"),
    Advice("fullconn minconn", "pool", "max_in_flight: 64", within="pool endpoint"),
    Advice("autoscaling autoscale hpa scale", "oip pool", "scaling: {metrics: [{type: in_flight, target: 4}]}"),
    Advice(
        "modelrepository modelrepo models modelpath serving model modelstore repository managed",
        "oip pool",
        "serve: {models: models}",
        within="config pool",
    ),
    Advice(
        "dynamicbatching batching maxbatchsize batch",
        note="the model server does that: docs/howto/run-model-servers.md",
    ),
    # endpoints
    Advice(
        "url uri host server ip hostname target addr socket port hostport endpoint",
        "endpoint",
        'address: "10.0.0.1:8080"',
        within="endpoint",
    ),
    Advice("w weights share ratio loadbalancingweight", "endpoint", "weight: 2", within="endpoint"),
    Advice("backup", "endpoint", "priority: 1", "lower ones are asked first; see `priorities` of the pool", "endpoint"),
    Advice(
        "down disabled maintenance drain enabled state",
        "endpoint",
        "weight: 0",
        "or, while it runs, `tidegate drain POOL ADDRESS`",
        within="endpoint",
    ),
    Advice("name id", note="an endpoint goes by its address", within="endpoint"),
    Advice("region locality az availabilityzone rack datacenter dc", "endpoint", "zone: a", within="endpoint"),
    Advice("ssl tls sni verify insecure", "pool", "tls: {}", within="endpoint"),
    # checks
    Advice("uri url endpoint httppath requestpath", "health", "type: http, path: /healthz", within="health"),
    Advice(
        "expectedstatus expectstatus expectedstatuses match httpexpect statuscode statuscodes codes healthstatus",
        "health",
        "type: http, status: [200-399]",
        within="health",
    ),
    Advice("passes healthythreshold successthreshold healthy", "health", "rise: 2", within="health"),
    Advice(
        "fails unhealthythreshold failurethreshold retries maxfails unhealthy", "health", "fall: 3", within="health"
    ),
    Advice("inter period every frequency healthinterval", "health", "interval: 2s", within="health"),
    Advice("hostname hostheader", "health", "type: http, host: example.org", within="health"),
    Advice("scheme ssl https checkssl", "health", "tls: {}", within="health"),
    Advice("mode kind check", "health", "type: http", within="health"),
    Advice(
        "tcpcheck tcpchecks script sendexpect conversation match",
        "health",
        "type: tcp, steps: [{expect: ready}]",
        within="health",
    ),
    Advice("pgsqlcheck pgsql postgresql", "health", "type: postgres", within="health"),
    Advice("mysqlcheck mariadb", "health", "type: mysql, user: tidegate", within="health"),
    Advice("smtpchk", "health", "type: smtp", within="health"),
    Advice("ldapcheck", "health", "type: ldap", within="health"),
    Advice("checkproto codecclienttype httpversion", "health", "type: http, protocol: http2", within="health"),
    Advice("expectbody healthbody bodyregex rstring", "health", "type: http, body: {contains: ok}", within="health"),
    # model servers
    Advice(
        "replicas count numreplicas instancegroup instancegroups minreplicas minimum workers processes",
        "serve",
        "min: 2",
        within="serve",
    ),
    Advice("maxreplicas maximum", "serve", "min: 2, max: 2", "more than min needs `scaling` in the pool", "serve"),
    Advice(
        "modelrepository modelrepo modelpath modelsdir modeldir path folder directory model repository modelstore",
        "serve",
        "models: models",
        within="serve",
    ),
    Advice("device devices executionproviders provider kind", "serve", "providers: [cuda, cpu]", within="serve"),
    Advice("environment envs envvars environ", "serve", 'env: {OMP_NUM_THREADS: "2"}', within="serve"),
    Advice("gpu numgpus gpucount ngpus nvidiagpu", "serve", "gpus: 1", within="serve"),
    Advice("core numcpus cpucount ncpus cpus cpu", "serve", "cores: 2", within="serve"),
    Advice("warm warmpool warmservers spare spares hotspare", "serve", "standby: 1", within="serve"),
    Advice("cmd arguments extraargs flags", "serve", 'args: ["--log-level", debug]', within="serve"),
)

POLICIES: tuple[Advice, ...] = (
    Advice("automatic adaptive learned learning smart dynamic intelligent default best", "pool", "policy: auto"),
    Advice(
        "leastconnections leastconnection leastconn leastconns lc leastrequests leastoutstandingrequests leastload"
        " leastbusy leastactive lor",
        "pool",
        "policy: least_request",
    ),
    Advice(
        "weightedleastconnections weightedleastconn weightedleastrequest wlc wlr",
        "pool",
        "policy: least_request",
        _WEIGHTS,
    ),
    Advice("rr", "pool", "policy: round_robin"),
    Advice(
        "weightedroundrobin wrr weighted staticrr smoothweightedroundrobin swrr",
        "pool",
        "policy: round_robin",
        _WEIGHTS,
    ),
    Advice("clientsidewrr cswrr", "pool", "policy: client_side_weighted_round_robin"),
    Advice(
        "iphash source sourceip sourcehash sourceiphash src clientip clientiphash sh haship sourceipconsistent",
        "pool",
        _SOURCE_HASH,
    ),
    Advice(
        "consistenthash consistenthashing consistent hash ketama generichash headerhash hdr header chash hashheader",
        "pool",
        _HEADER_HASH,
    ),
    Advice("uri urihash url urlhash requesturi", "pool", "policy: {type: ring_hash, key: {uri: true}}"),
    Advice("path pathhash", "pool", "policy: {type: ring_hash, key: {path: true}}"),
    Advice("urlparam query queryhash", "pool", "policy: {type: ring_hash, key: {query: user}}"),
    Advice("cookiehash", "pool", "policy: {type: ring_hash, key: {cookie: session}}"),
    Advice("ringhashing hashring", "pool", _HEADER_HASH),
    Advice("maglevhash", "pool", "policy: {type: maglev, key: {header: x-session}}"),
    Advice("rendezvoushash hrw highestrandomweight", "pool", "policy: {type: rendezvous, key: {header: x-session}}"),
    Advice(
        "boundedload boundedloads consistenthashboundedloads chbl prefixhash",
        "pool",
        "policy: {type: ring_hash, key: {header: x-session}, bounded_load: 1.25}",
    ),
    Advice(
        "p2c poweroftwochoices powerof2 powerof2choices randomtwo randomtwoleastconn randomchoose tworandom",
        "pool",
        "policy: power_of_two",
    ),
    Advice("ewma latency", "pool", "policy: peak_ewma"),
    Advice("leastresponsetime fastest leastlatency lrt responsetime", "pool", "policy: least_time"),
    Advice("sed shortestqueue sq", "pool", "policy: shortest_expected_delay"),
    Advice("nq idlefirst joinidlequeue jiq", "pool", "policy: never_queue"),
    Advice("firstavailable fillfirst binpack pickfirst", "pool", "policy: {type: first, fill: 64}"),
    Advice("sticky stickycookie stickysession cookie session", "pool", _COOKIE),
    Advice("failover backup priority activepassive activestandby", "pool", _FAILOVER),
    Advice("cacheaware modelaware prefixaware", "oip pool", "policy: {type: maglev, key: {model: true}}"),
)

# By place and key; the word itself is one of `names`.
VALUES: dict[tuple[str, str], tuple[Advice, ...]] = {
    ("listener", "protocol"): (
        Advice(
            "grpc grpcweb h2 h2c http2 http1 http11 http10 ws websocket websockets rest web oip kserve triton v2 auto",
            "listener",
            "protocol: http",
            "it understands HTTP/1.1, HTTP/2 and gRPC; the pool says how endpoints are spoken to",
        ),
        Advice("grpcs wss ssl h2s httpstls tlshttp", "listener", _HTTPS),
        Advice("quic http3 h3", note="HTTP/3 is not spoken here"),
        Advice("stream layer4 l4 raw redis mysql postgres postgresql tcpip", "tcp listener", "protocol: tcp"),
        Advice("dns datagram datagrams", "udp listener", "protocol: udp"),
        Advice("sni passthrough tlspassthrough", note="that is protocol: tls, with sni_routes or a pool"),
    ),
    ("pool", "protocol"): (
        Advice("https ssl wss httptls", "pool", "protocol: http, tls: {}"),
        Advice("h2c http2c", "pool", "protocol: http2"),
        Advice("h2 http2tls h2s", "pool", "protocol: http2, tls: {}", "without TLS it is protocol: http2 alone"),
        Advice("grpcs grpctls", "pool", "protocol: grpc, tls: {}"),
        Advice("http1 http11 http10 ws websocket web", "pool", "protocol: http"),
        Advice(
            "kserve kservev2 triton v2 inference openinference kfserving openinferenceprotocol onnx",
            "pool",
            "protocol: oip",
        ),
        Advice("tls tcptls", "tcp pool", "protocol: tcp, tls: {}"),
        Advice("stream layer4 l4 raw redis mysql postgres", "tcp pool", "protocol: tcp"),
        Advice("quic http3 h3", note="HTTP/3 is not spoken here"),
        Advice("fastcgi fcgi uwsgi scgi ajp", note="endpoints speak HTTP here"),
    ),
    ("health", "type"): (
        Advice("httpchk rest httpget url", "health", "type: http"),
        Advice("https", "health", "type: http, tls: {}"),
        Advice("tcpcheck connect port l4 layer4 socket", "health", "type: tcp"),
        Advice("ping icmp exec script command", note="an endpoint is asked by http, grpc, oip, tcp or udp"),
        Advice("none off disabled", note="without the section `health` there are no checks"),
        Advice("h2c http2 h2 http2c", "health", "type: http, protocol: http2"),
        Advice("pgsql pgsqlcheck postgresql", "health", "type: postgres"),
        Advice("mysqlcheck mariadb", "health", "type: mysql, user: tidegate"),
        Advice("smtpchk mail", "health", "type: smtp"),
        Advice("ldapcheck", "health", "type: ldap"),
        Advice("redischeck valkey", "health", "type: redis"),
    ),
    ("compression", "codings"): (
        Advice("brotli", "compression", "codings: [br]"),
        Advice("zstandard", "compression", "codings: [zstd]"),
        Advice("deflate rawdeflate xgzip", "compression", "codings: [gzip]"),
    ),
    ("map", "match"): (
        Advice("str mapstr string equal", "map", "match: exact"),
        Advice("beg mapbeg begins startswith", "map", "match: prefix"),
        Advice("end mapend ends endswith", "map", "match: suffix"),
        Advice("dom mapdom hostnames host hosts wildcard", "map", "match: domain"),
        Advice("reg mapreg regm mapregm regexp expression", "map", "match: regex"),
        Advice("ip mapip geo cidr networks address", "map", "match: network"),
    ),
    ("log", "level"): (
        Advice("warn", "config", "log: {level: warning}"),
        Advice("notice information", "config", "log: {level: info}"),
        Advice("trace verbose all", "config", "log: {level: debug}"),
        Advice("err crit critical fatal alert emerg emergency quiet off none", "config", "log: {level: error}"),
    ),
    ("tls", "min_version"): (
        Advice("tlsv1.2 tls1_2 1.2 tls12 versiontls12 tls_1_2", "tls", "min_version: tls1.2"),
        Advice("tlsv1.3 1.3 tls13 versiontls13 tls_1_3", "tls", "min_version: tls1.3"),
        Advice(
            "tlsv1 tls1 tls1.0 tls1.1 tlsv1.0 tlsv1.1 1.0 1.1 tls10 tls11 sslv3 ssl3 ssl",
            note="tls1.2 is the oldest that is spoken",
        ),
    ),
    ("tls", "client_auth"): (
        Advice("require verify mandatory on true yes requireandverify requireandverifyclientcert", "tls", _CLIENT_AUTH),
        Advice("request verifyifgiven optionalnoca", "tls", "client_auth: optional, client_ca: ca.pem"),
    ),
    ("listener", "forwarded"): (
        Advice("add true on yes appendforward", "listener", "forwarded: append"),
        Advice("set overwrite sanitize sanitizeset", "listener", "forwarded: replace"),
    ),
    ("serve", "providers"): (
        Advice("gpu cudaexecutionprovider nvidia", "serve", "providers: [cuda, cpu]"),
        Advice("trt tensorrtexecutionprovider", "serve", "providers: [tensorrt, cuda, cpu]"),
        Advice("cpuexecutionprovider", "serve", "providers: [cpu]"),
    ),
    ("retry", "on"): (
        Advice(
            "gatewayerror 502 503 504 http502 http503 http504 servererror retriablestatuscodes",
            "retry",
            "on: [5xx]",
        ),
        Advice("429 http429 toomanyrequests", "retry", "on: [rate-limited]"),
        Advice("connectfailure connfailure refused refusedstream error", "retry", "on: [connect, reset]"),
        Advice("emptyresponse responsetimeout junkresponse resetbeforerequest", "retry", "on: [reset]"),
    ),
}
