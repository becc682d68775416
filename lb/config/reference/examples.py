"""An example for each section of the reference page; tests/config checks that the models take them."""

from __future__ import annotations

from pydantic import BaseModel

from lb.config.schema.admin import AdminTokenConfig
from lb.config.schema.file import (
    AccessConfig,
    AdminConfig,
    AgentConfig,
    AlertsConfig,
    BodyMatchConfig,
    CacheConfig,
    CanaryConfig,
    CertificateConfig,
    CompareConfig,
    Config,
    CorsConfig,
    DiscoverConfig,
    DiskConfig,
    DnsSourceConfig,
    EndpointConfig,
    FieldsConfig,
    FileSourceConfig,
    GrpcMatch,
    HealthConfig,
    HedgeConfig,
    JobsConfig,
    KeyConfig,
    LimitsConfig,
    ListenerConfig,
    LogConfig,
    MatchConfig,
    MirrorConfig,
    ModelMatch,
    NormalizeConfig,
    PathMatch,
    PeersConfig,
    PolicyConfig,
    PoolConfig,
    PoolTlsConfig,
    PrioritiesConfig,
    ProviderConfig,
    ProxyProtocolConfig,
    QuotaConfig,
    QuotaKeyConfig,
    RateKeyConfig,
    RateLimitConfig,
    ReadyConfig,
    RedirectConfig,
    RespondConfig,
    RetryBackoffConfig,
    RetryConfig,
    RewriteConfig,
    RouteConfig,
    ScalingConfig,
    SendProxyConfig,
    ServeConfig,
    ShareConfig,
    ShutdownConfig,
    SniRouteConfig,
    TableCompareConfig,
    TableConfig,
    TableRuleConfig,
    TextMatch,
    TierConfig,
    TierTlsConfig,
    TlsConfig,
    TracingConfig,
    VerticalConfig,
    ZonesConfig,
)
from lb.config.schema.jobs import JobStoreConfig, NatsConfig, NatsTlsConfig, WebhooksConfig
from lb.config.schema.listeners.keepalive import PoolTcpKeepaliveConfig, TcpKeepaliveConfig
from lb.config.schema.listeners.udp import UdpConfig
from lb.config.schema.pools.engine import (
    AwsEngineConfig,
    EngineConfig,
    ExternalEngineConfig,
    GcpEngineConfig,
    KubernetesEngineConfig,
    LeaseConfig,
    RayEngineConfig,
    RedisConfig,
)
from lb.config.schema.pools.platforms import (
    AwsSourceConfig,
    GcpSourceConfig,
    KubernetesConfig,
    KubernetesSourceConfig,
)
from lb.config.schema.purge import CloudflareConfig, CloudFrontConfig, PurgeConfig

EXAMPLES: dict[type[BaseModel], str] = {
    EngineConfig: """
kubernetes: {target: deployment/chat}
min: 2
max: 20
""",
    KubernetesEngineConfig: """
target: deployment/chat
namespace: models
""",
    AwsEngineConfig: """
group: chat-models
region: eu-central-1
lifecycle_hook: drain
""",
    GcpEngineConfig: """
project: models
zone: europe-west3-a
group: chat
""",
    RayEngineConfig: """
address: auto
cpus: 2
gpus: 1
""",
    ExternalEngineConfig: """
keda: 0.0.0.0:6000
""",
    LeaseConfig: """
redis: redis://10.0.0.5:6379/0
""",
    RedisConfig: """
url: redis://10.0.0.5:6379/0
""",
    KubernetesConfig: """
namespace: models
""",
    KubernetesSourceConfig: """
service: chat
port: http
""",
    AwsSourceConfig: """
target_group: arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/chat/0123456789abcdef
""",
    GcpSourceConfig: """
project: models
zone: europe-west3-a
group: chat
port: 8001
""",
    TcpKeepaliveConfig: """
idle: 120s
""",
    PoolTcpKeepaliveConfig: """
idle: 30s
interval: 10s
user_timeout: 0s
""",
    Config: """
workers: auto
admin: {bind: 127.0.0.1:9900}
listeners:
  web:
    bind: 0.0.0.0:8080
    protocol: http
    routes:
      - match: {path: {prefix: /v2/}}
        pool: digits
pools:
  digits:
    protocol: oip
    endpoints: [10.0.0.1:8001, 10.0.0.2:8001]
    health: {type: grpc}
cache: {size: 256MiB, ttl: 10m}
""",
    AdminConfig: """
bind: 10.0.0.5:9900
token_file: /etc/tidegate/token
""",
    AdminTokenConfig: """
name: grafana
role: viewer
file: /etc/tidegate/viewer.token
""",
    ListenerConfig: """
bind: "[::]:8080"
protocol: http
idle_timeout: 2m
forwarded: replace
routes:
  - pool: digits
""",
    TlsConfig: """
certificates:
  - {cert: /etc/tidegate/example.org.pem, key: /etc/tidegate/example.org.key}
  - {cert: /etc/tidegate/models.pem, key: /etc/tidegate/models.key, names: ["*.models.example.org"]}
client_auth: optional
client_ca: /etc/tidegate/clients.pem
""",
    CertificateConfig: """
cert: /etc/tidegate/example.org.pem
key: /etc/tidegate/example.org.key
names: [example.org, www.example.org]
""",
    PrioritiesConfig: """
spill: none
""",
    ZonesConfig: """
overprovisioning: 200
min_endpoints: 3
""",
    PoolTlsConfig: """
ca_file: /etc/tidegate/inside.pem
server_name: models.example.org
cert: /etc/tidegate/tidegate.pem
key: /etc/tidegate/tidegate.key
""",
    UdpConfig: """
responses: 1
max_datagram: 4KiB
max_sessions_per_source: 1000
""",
    RouteConfig: """
name: chat
match: {host: chat.example.org, path: {prefix: /v2/models/chat/}, method: POST}
pool: chat
cache: {ttl: 1h, stale_while_revalidate: 5m}
timeout: 5m
max_body: 4MiB
""",
    ProviderConfig: """
type: api_key
file: /etc/tidegate/keys
""",
    AccessConfig: """
providers: [keys]
allow: [team-a, team-b]
""",
    CorsConfig: """
allow_origins: [https://app.example.org, "https://*.preview.example.org"]
allow_methods: [POST]
""",
    MatchConfig: """
host: "*.example.org"
path: {exact: /v2/health/ready}
method: [GET, HEAD]
""",
    PathMatch: """
template: /v2/models/{model}/infer
""",
    TextMatch: """
prefix: "Bearer "
""",
    GrpcMatch: """
service: inference.GRPCInferenceService
method: ModelInfer
""",
    ModelMatch: """
prefix: llm-
""",
    NormalizeConfig: """
escaped_slash: reject
""",
    ShareConfig: """
pool: chat-next
weight: 5
""",
    MirrorConfig: """
pool: chat-next
percent: 1
""",
    CompareConfig: """
absolute: 0.0001
relative: 0.01
""",
    CanaryConfig: """
pool: chat-next
steps: [1, 10, 50]
interval: 5m
""",
    RewriteConfig: """
path: /v2/models/{model}/infer
host: internal.example.org
""",
    RedirectConfig: """
status: 308
scheme: https
""",
    RespondConfig: """
status: 403
file: /etc/tidegate/maintenance.html
""",
    FieldsConfig: """
set: {X-Api: "1"}
remove: [Cookie]
""",
    RetryConfig: """
attempts: 2
on: [connect, reset, 5xx]
budget: 20
""",
    RetryBackoffConfig: """
base: 25ms
max: 250ms
""",
    HedgeConfig: """
after: p95
budget: 10
""",
    ProxyProtocolConfig: """
from: [10.0.0.0/8, "2001:db8:1::/48"]
required: true
timeout: 2s
""",
    SniRouteConfig: """
sni: [db.example.org, "*.db.example.org"]
alpn: postgresql
source: 10.0.0.0/8
pool: db
""",
    SendProxyConfig: """
version: v2
unique_id: true
checksum: true
""",
    PoolConfig: """
protocol: oip
policy: {type: maglev, key: {header: x-session}}
endpoints:
  - 10.0.0.1:8001
  - {address: models.example.org:8001, weight: 2}
health: {type: grpc, interval: 1s}
response_timeout: 2m
""",
    PolicyConfig: """
type: maglev
key: {cookie: session}
""",
    KeyConfig: """
source: true
""",
    EndpointConfig: """
address: unix:/run/models/digits.sock
weight: 2
""",
    DiscoverConfig: """
dns: {name: _oip._tcp.models.internal, type: SRV}
initial: required
max_endpoints: 64
""",
    DnsSourceConfig: """
name: models.internal
port: 9001
resolvers: [10.0.0.2, "10.0.0.3:5353"]
max_ttl: 1m
""",
    FileSourceConfig: """
path: endpoints.yaml
""",
    AgentConfig: """
port: 9777
interval: 5s
send: "state\\n"
""",
    HealthConfig: """
type: http
path: /healthz
status: [200-299, 401]
headers: {X-Probe: tidegate}
body: {contains: '"ready":true'}
interval: 5s
timeout: 2s
initial: down
fast_interval: 500ms
""",
    BodyMatchConfig: """
regex: '"status": *"(ok|degraded)"'
limit: 16KiB
""",
    ServeConfig: """
models: /var/lib/tidegate/models
min: 1
max: 4
providers: [tensorrt, cuda, cpu]
gpus: 1
standby: 1
""",
    ReadyConfig: """
type: http
path: /v2/health/ready
port: http
timeout: 5s
""",
    VerticalConfig: """
max_cores: 8
dry_run: true
""",
    ScalingConfig: """
metrics:
  - {type: in_flight, target: 4}
up: {window: 0s}
down: {window: 2m, policies: [{type: replicas, value: 1, period: 1m}]}
""",
    CacheConfig: """
size: 1GiB
max_object: 4MiB
ttl: 10m
""",
    DiskConfig: """
path: /var/cache/tidegate
max_size: 100GiB
""",
    TierConfig: """
type: redis
servers: ["cache.example.org:6379"]
secret_file: /etc/tidegate/cache.secret
username: tidegate
password_file: /etc/tidegate/cache.password
tls: {ca_file: /etc/tidegate/cache-ca.pem}
""",
    TierTlsConfig: """
ca_file: /etc/tidegate/cache-ca.pem
cert: /etc/tidegate/cache-client.pem
key: /etc/tidegate/cache-client.key
""",
    PurgeConfig: """
cloudflare: {zone: 023e105f4ecef8ad9ca31a8372d0c353, token_file: /etc/tidegate/cloudflare.token}
""",
    CloudflareConfig: """
zone: 023e105f4ecef8ad9ca31a8372d0c353
token_file: /etc/tidegate/cloudflare.token
""",
    CloudFrontConfig: """
distribution: E2QWRUHAPOMQZL
paths: ["/v2/models/{model}/*", "/legacy/{model}"]
""",
    JobsConfig: """
path: /var/lib/tidegate/jobs.db
tenant: {header: x-tenant}
quota: 10000
""",
    JobStoreConfig: """
nats: {urls: ["nats://10.0.0.5:4222"]}
""",
    NatsConfig: """
urls: ["tls://nats-1:4222", "tls://nats-2:4222", "tls://nats-3:4222"]
replicas: 3
credentials_file: /etc/tidegate/nats.creds
""",
    NatsTlsConfig: """
ca_file: /etc/tidegate/nats-ca.pem
""",
    WebhooksConfig: """
secret_file: /etc/tidegate/webhooks.secret
urls: ["https://app.example.org/hooks/"]
""",
    AlertsConfig: """
urls: ["https://hooks.slack.com/services/T0/B0/X"]
after: 1m
""",
    LogConfig: """
level: info
access: /var/log/tidegate/access.log
""",
    RateLimitConfig: """
rate: 100/s
burst: 200
key: {header: x-tenant}
""",
    QuotaConfig: """
requests: 100000
per: day
key: {identity: true}
overrides: {team-a: 1000000}
""",
    QuotaKeyConfig: """
identity: true
""",
    TableConfig: """
key: ${client.address}
size: 100000
expire: 10m
store: [request_rate(10s), error_rate(1m), concurrent, gpt0]
""",
    PeersConfig: """
redis: redis://10.0.0.5:6379/0
secret_file: /etc/tidegate/peers.secret
""",
    TableRuleConfig: """
when: {clients: {request_rate: {above: 100}}}
deny: 429
""",
    TableCompareConfig: """
above: 100
""",
    RateKeyConfig: """
cookie: session
""",
    TracingConfig: """
endpoint: http://127.0.0.1:4317
ratio: 0.05
parent: trusted
""",
    LimitsConfig: """
max_in_flight: 20000
max_memory: 2GiB
""",
    ShutdownConfig: """
drain_timeout: 1m
""",
}
