"""How lists and mappings look: an example for each place that takes one, for the messages about values of another
kind. tests/config/test_config_foreign.py validates them."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel

from lb.config.advice.literal import instead_of_pattern, redirect_of_url

_HEADERS = "{x-team: blue}"
_NETWORKS = "[10.0.0.0/8]"

LISTS: dict[tuple[str, str], str] = {
    ("Config", "listeners"): 'listeners: {web: {bind: "0.0.0.0:8080", protocol: http, routes: [{pool: app}]}}',
    ("Config", "pools"): 'pools: {app: {protocol: http, endpoints: ["10.0.0.1:8080"]}}',
    ("ListenerConfig", "routes"): "routes: [{match: {path: {prefix: /v2/}}, pool: app}]",
    ("ListenerConfig", "sni_routes"): "sni_routes: [{sni: [example.org], pool: app}]",
    ("ListenerConfig", "trusted_proxies"): f"trusted_proxies: {_NETWORKS}",
    ("ListenerConfig", "upgrades"): "upgrades: [websocket]",
    ("TlsConfig", "certificates"): "certificates: [{cert: site.pem, key: site.key}]",
    ("TlsConfig", "alpn"): "alpn: [h2, http/1.1]",
    ("CloudFrontConfig", "paths"): 'paths: ["/v2/models/{model}/*"]',
    ("PoolCacheConfig", "rows"): "rows: [digits]",
    ("PoolCacheConfig", "models"): "models: {prices: {ttl: 5s}, sampler: false}",
    ("WebhooksConfig", "urls"): 'urls: ["https://app.example.org/hooks/"]',
    ("AlertsConfig", "urls"): 'urls: ["https://hooks.slack.com/services/T0/B0/X"]',
    ("AlertsConfig", "conditions"): "conditions: [pool_without_endpoint, endpoint_down]",
    ("NatsConfig", "urls"): 'urls: ["nats://10.0.0.5:4222"]',
    ("TierConfig", "servers"): 'servers: ["10.0.0.5:6379"]',
    ("CertificateConfig", "names"): "names: [example.org]",
    ("RouteConfig", "server_calls"): "server_calls: [models, settings]",
    ("RouteConfig", "pools"): "pools: [{pool: app, weight: 90}, {pool: canary, weight: 10}]",
    ("MatchConfig", "method"): "method: [GET, HEAD]",
    ("MatchConfig", "headers"): f"headers: {_HEADERS}",
    ("MatchConfig", "query"): 'query: {debug: "1"}',
    ("MatchConfig", "cookies"): "cookies: {group: beta}",
    ("MatchConfig", "source"): f"source: {_NETWORKS}",
    ("MatchConfig", "not_source"): f"not_source: {_NETWORKS}",
    ("RespondConfig", "headers"): "headers: {content-type: text/plain}",
    ("FieldsConfig", "set"): f"set: {_HEADERS}",
    ("FieldsConfig", "add"): f"add: {_HEADERS}",
    ("FieldsConfig", "remove"): "remove: [server]",
    ("RouteCacheConfig", "vary"): "vary: [accept-language]",
    ("HttpCacheKeyConfig", "headers"): "headers: [x-tenant]",
    ("RetryConfig", "on"): "on: [connect, reset, 5xx]",
    ("AdminConfig", "tokens"): "tokens: [{name: grafana, role: viewer, file: /etc/tidegate/viewer.token}]",
    ("Config", "auth"): "auth: {keys: {type: api_key, file: /etc/tidegate/keys}}",
    ("AccessConfig", "providers"): "providers: [keys]",
    ("AccessConfig", "allow"): "allow: [team-a]",
    ("ProviderConfig", "audience"): "audience: [https://inference.example.org]",
    ("ProviderConfig", "algorithms"): "algorithms: [ES256]",
    ("ProviderConfig", "headers"): "headers: [authorization]",
    ("ProviderConfig", "set_request_headers"): "set_request_headers: [x-groups]",
    ("ProviderConfig", "set_response_headers"): "set_response_headers: [set-cookie]",
    ("ProviderConfig", "denied_headers"): "denied_headers: [location, www-authenticate]",
    ("ProviderConfig", "names"): 'names: ["*.example.org"]',
    ("CorsConfig", "allow_origins"): 'allow_origins: ["https://app.example.org"]',
    ("CorsConfig", "allow_origin_regexes"): 'allow_origin_regexes: ["https://.*[.]example[.]org"]',
    ("CorsConfig", "allow_methods"): "allow_methods: [GET, POST]",
    ("CorsConfig", "allow_headers"): "allow_headers: [content-type]",
    ("CorsConfig", "expose_headers"): "expose_headers: [x-request-id]",
    ("SniRouteConfig", "sni"): "sni: [example.org]",
    ("SniRouteConfig", "alpn"): "alpn: [h2]",
    ("SniRouteConfig", "source"): f"source: {_NETWORKS}",
    ("ProxyProtocolConfig", "from"): f"from: {_NETWORKS}",
    ("ExplainConfig", "trusted"): f"trusted: {_NETWORKS}",
    ("PoolConfig", "endpoints"): 'endpoints: ["10.0.0.1:8080", {address: "10.0.0.2:8080", weight: 2}]',
    ("DnsSourceConfig", "families"): "families: [ipv4]",
    ("DnsSourceConfig", "resolvers"): "resolvers: [10.0.0.53]",
    ("RayEngineConfig", "resources"): "resources: {accelerator_type:A100: 0.001}",
    ("ServeConfig", "providers"): "providers: [cuda, cpu]",
    ("ServeConfig", "args"): 'args: ["--log-level", debug]',
    ("ServeConfig", "command"): 'command: [my-server, "--port", "{port}"]',
    ("ServeConfig", "env"): 'env: {OMP_NUM_THREADS: "2"}',
    ("ReadyConfig", "status"): "status: [200-399]",
    ("HealthConfig", "headers"): f"headers: {_HEADERS}",
    ("HealthConfig", "status"): "status: [200-399]",
    ("HealthConfig", "models"): "models: [digits]",
    ("ScalingConfig", "metrics"): "metrics: [{type: in_flight, target: 4}]",
    (
        "ScalingConfig",
        "schedules",
    ): 'schedules: [{cron: "0 8 * * 1-5", timezone: Europe/Berlin, duration: 10h, min: 4}]',
    ("BehaviorConfig", "policies"): "policies: [{type: replicas, value: 2}]",
    ("TargetTrackingConfig", "metrics"): "metrics: [{type: cpu, target: 50}]",
    ("StepScalingConfig", "alarms"): "alarms: [{type: cpu, threshold: 70, steps: [{adjustment: 1}]}]",
    ("AlarmConfig", "steps"): "steps: [{adjustment: 1}]",
}
FORMS: dict[str, str] = {
    "AdminConfig": "{bind: 127.0.0.1:9900}",
    "AgentConfig": "{port: 9999}",
    "BodyMatchConfig": "{contains: ok}",
    "CacheConfig": "{size: 256MiB}",
    "CertificateConfig": "{cert: site.pem, key: site.key}",
    "CookieConfig": "{name: lb}",
    "AdminTokenConfig": "{name: grafana, role: viewer, file: /etc/tidegate/viewer.token}",
    "AccessConfig": "{providers: [keys]}",
    "ProviderConfig": "{type: api_key, file: /etc/tidegate/keys}",
    "CorsConfig": '{allow_origins: ["https://app.example.org"]}',
    "AffinityConfig": "{cookie: {name: lb}}",
    "LearnConfig": "{cookie: JSESSIONID}",
    "DiscoverConfig": "{dns: {name: models.internal, port: 8001}}",
    "DnsSourceConfig": "{name: models.internal, port: 8001}",
    "ExplainConfig": f"{{trusted: {_NETWORKS}}}",
    "EndpointConfig": '{address: "10.0.0.1:8080"}',
    "FieldsConfig": f"{{set: {_HEADERS}}}",
    "FileSourceConfig": "{path: endpoints.yaml}",
    "KubernetesSourceConfig": "{service: chat, port: http}",
    "AwsSourceConfig": "{target_group: 'arn:aws:elasticloadbalancing:eu-central-1:1:targetgroup/chat/1'}",
    "GcpSourceConfig": "{project: models, zone: europe-west3-a, group: chat, port: 8001}",
    "EngineConfig": "{kubernetes: {target: deployment/chat}, max: 20}",
    "KubernetesEngineConfig": "{target: deployment/chat}",
    "AwsEngineConfig": "{group: chat}",
    "GcpEngineConfig": "{project: models, zone: europe-west3-a, group: chat}",
    "LeaseConfig": "{redis: 'redis://10.0.0.5:6379/0'}",
    "RedisConfig": "{url: 'redis://10.0.0.5:6379/0'}",
    "GrpcMatch": "{service: inference.GRPCInferenceService}",
    "HttpCacheConfig": "{ttl: 5s}",
    "TenantConfig": "{header: x-tenant}",
    "HttpCacheKeyConfig": "{query: false}",
    "HealthConfig": "{type: http, path: /healthz}",
    "HedgeConfig": "{after: p95}",
    "KeyConfig": "{header: x-session}",
    "LimitsConfig": "{max_in_flight: 10000}",
    "ListenerConfig": '{bind: "0.0.0.0:8080", protocol: http, routes: [{pool: app}]}',
    "LogConfig": "{level: info}",
    "MatchConfig": "{path: {prefix: /v2/}}",
    "MirrorConfig": "{pool: canary}",
    "ModelMatch": "{exact: digits}",
    "TextMatch": "{present: true}",
    "TierConfig": '{type: redis, servers: ["10.0.0.5:6379"], secret_file: cache.secret}',
    "TierTlsConfig": "{ca_file: ca.pem}",
    "PurgeConfig": "{cloudfront: {distribution: E2QWRUHAPOMQZL}}",
    "DiskConfig": "{path: /var/cache/tidegate, max_size: 10GiB}",
    "JobsConfig": "{path: jobs.db}",
    "JobStoreConfig": '{nats: {urls: ["nats://10.0.0.5:4222"]}}',
    "NatsConfig": '{urls: ["nats://10.0.0.5:4222"]}',
    "NatsTlsConfig": "{ca_file: ca.pem}",
    "AlertsConfig": '{urls: ["https://hooks.slack.com/services/T0/B0/X"]}',
    "WebhooksConfig": '{secret_file: webhooks.secret, urls: ["https://app.example.org/hooks/"]}',
    "CloudflareConfig": "{zone: 023e105f4ecef8ad9ca31a8372d0c353, token_file: cloudflare.token}",
    "CloudFrontConfig": "{distribution: E2QWRUHAPOMQZL}",
    "CostConfig": "{unit: bytes}",
    "PoolCacheConfig": "{rows: [digits]}",
    "SlowStartConfig": "{window: 30s}",
    "StepConfig": "{type: replicas, value: 2}",
    "PathMatch": "{prefix: /v2/}",
    "PoolConfig": '{protocol: http, endpoints: ["10.0.0.1:8080"]}',
    "ProxyProtocolConfig": f"{{from: {_NETWORKS}}}",
    "QueueConfig": "{timeout: 30s}",
    "QuotaConfig": "{requests: 100000, per: day, key: {identity: true}}",
    "QuotaKeyConfig": "{identity: true}",
    "RateKeyConfig": "{source: true}",
    "RateLimitConfig": "{rate: 100/s}",
    "ReadyConfig": "{type: http, path: /health}",
    "RedirectConfig": "{scheme: https, status: 308}",
    "RespondConfig": "{status: 200, body: ok}",
    "RetryBackoffConfig": "{base: 25ms}",
    "RetryConfig": "{attempts: 2}",
    "RewriteConfig": "{path: /v2/}",
    "RouteConfig": "{match: {path: {prefix: /v2/}}, pool: app}",
    "ScalingConfig": "{metrics: [{type: in_flight, target: 4}]}",
    "MetricConfig": "{type: in_flight, target: 4}",
    "AlarmConfig": "{type: cpu, threshold: 70, steps: [{adjustment: 1}]}",
    "StepAdjustmentConfig": "{adjustment: 1}",
    "ScheduleConfig": '{cron: "0 8 * * 1-5", timezone: Europe/Berlin, duration: 10h, min: 4}',
    "PolicyConfig": "{type: least_request}",
    "RegexRewriteConfig": "{pattern: '^/v1/', substitution: /v2/}",
    "SendProxyConfig": "{version: v2}",
    "ServeConfig": "{models: models}",
    "ShareConfig": "{pool: app, weight: 90}",
    "ShutdownConfig": "{drain_timeout: 30s}",
    "SniRouteConfig": "{sni: [example.org], pool: app}",
    "TlsConfig": "{certificates: [{cert: site.pem, key: site.key}]}",
    "TracingConfig": '{endpoint: "http://127.0.0.1:4318/v1/traces"}',
    "UdpConfig": "{max_sessions: 10000}",
    "VerticalConfig": "{dry_run: true}",
}

# Of a value that stands in place of a mapping, by the mapping: what it means there. {} is the value.
_MEANINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "CacheConfig": ((r"[0-9.]+(?:B|KiB|MiB|GiB|TiB)", "{{size: {}}}"),),
    "CookieConfig": ((r"[A-Za-z_][A-Za-z0-9_-]{0,63}", "{{name: {}}}"),),
    "HealthConfig": (
        (r"http|grpc|oip|tcp", "{{type: {}}}"),
        (r"/[!-z]{0,200}", "{{type: http, path: {}}}"),
    ),
    "HedgeConfig": ((r"p[5-9][0-9]|[1-9][0-9]*ms", "{{after: {}}}"),),
    "KeyConfig": (
        (r"source", "{{source: true}}"),
        (r"model", "{{model: true}}"),
        (r"[Xx]-[A-Za-z-]+", "{{header: {}}}"),
    ),
    "LogConfig": ((r"debug|info|warning|error", "{{level: {}}}"), (r"/[!-z]{1,200}", "{{access: {}}}")),
    "MatchConfig": (
        (r"/[!-)+-z]{0,200}", "{{path: {{prefix: {}}}}}"),
        (r"[a-z0-9-]+(?:\.[a-z0-9-]+)+", "{{host: {}}}"),
    ),
    "MirrorConfig": ((r"[A-Za-z][A-Za-z0-9_-]{0,62}", "{{pool: {}}}"),),
    "PathMatch": ((r"/[!-)+-z]{0,200}", "{{prefix: {}}}"),),
    "OutlierConfig": ((r"[1-9][0-9]{0,5}", "{{consecutive_5xx: {}}}"),),
    "QueueConfig": ((r"[1-9][0-9]{0,5}", "{{max: {}}}"), (r"[1-9][0-9]{0,5}(?:s|ms|m)", "{{timeout: {}}}")),
    "FileSourceConfig": ((r"[./A-Za-z][!-z]{0,200}", "{{path: {}}}"),),
    "RedirectConfig": ((r"http|https", "{{scheme: {}}}"), (r"30[1278]", "{{scheme: https, status: {}}}")),
    "RespondConfig": ((r"[2-5][0-9][0-9]", "{{status: {}}}"), (r"[A-Za-z]{1,64}", "{{body: {}}}")),
    "RateKeyConfig": ((r"source|ip", "{{source: true}}"), (r"[Xx]-[A-Za-z-]+", "{{header: {}}}")),
    "RateLimitConfig": ((r"[1-9][0-9]{0,5}/[smhd]", "{{rate: {}}}"), (r"[1-9][0-9]{0,5}", "{{rate: {}/s}}")),
    "RetryConfig": ((r"[0-9]|10", "{{attempts: {}}}"),),
    "RouteConfig": ((r"[A-Za-z][A-Za-z0-9_-]{0,62}", "{{pool: {}}}"),),
    "ServeConfig": ((r"[./A-Za-z][!-z]{0,200}", "{{models: {}}}"),),
}


def shown_form(model: type[BaseModel]) -> str:
    """A mapping of `model`; "" where none is more usual than others."""
    return FORMS.get(model.__name__, "")


def instead_of(model: type[BaseModel], given: Any) -> str:
    """The mapping that a plain value in its place means; "" where that is not clear."""
    if isinstance(given, bool) or not isinstance(given, str | int):
        return ""
    path = model.__name__ == "PathMatch"
    if (path or model.__name__ == "MatchConfig") and (form := instead_of_pattern(str(given))):
        return form if path else f"{{path: {form}}}"
    if model.__name__ == "RedirectConfig" and (url := redirect_of_url(str(given))):
        return f"{{{url}}}"
    for pattern, form in _MEANINGS.get(model.__name__, ()):
        if re.fullmatch(pattern, str(given), re.ASCII):
            return form.format(given)
    return ""
