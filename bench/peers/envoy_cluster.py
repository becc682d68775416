"""Envoy's cluster: the servers, how one is chosen, how many requests each gets, how they are checked."""

from __future__ import annotations

from bench.peers.base import Setup, Task

_POLICIES = {"round_robin": "ROUND_ROBIN", "least_request": "LEAST_REQUEST"}
# In effect no limit; the largest that the field takes is 2^32 - 1.
_NO_LIMIT = 1_000_000_000
_PROTOCOLS = {
    "http": "http_protocol_options: {}",
    "oip": "http_protocol_options: {}",
    "http2": "http2_protocol_options: {}",
    "grpc": "http2_protocol_options: {}",
}
_H2 = ("http2", "grpc")


def cluster(setup: Setup) -> str:
    """The one resource of the cluster file, as an item of a YAML list."""
    task = setup.task
    endpoints = "".join(
        f"      - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}\n"
        for port in setup.server_ports
    )
    tuning = f"""  lb_policy: {_POLICIES[task.balance]}
  connect_timeout: 5s
{_breakers(task)}{_protocol(task)}{_checks(task)}{_outliers(task)}"""
    return f"""- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: servers
  type: STATIC
{"" if task.untuned else tuning}  load_assignment:
    cluster_name: servers
    endpoints:
    - lb_endpoints:
{endpoints}"""


def _breakers(task: Task) -> str:
    # With HTTP/2 the limit is one of streams on the server's one connection, else one of connections, each of which
    # carries one request.
    pending = _NO_LIMIT
    per_host = ""
    if task.endpoint_limit:
        # Only their number bounds how long requests wait; it is Envoy's default.
        pending = 1024
        connections = 1 if task.job in _H2 else task.endpoint_limit
        per_host = f"""    # Of each server, unlike the thresholds. What is over waits for its server, without a
    # limit of time; what is over the {pending} that may wait gets 503.
    per_host_thresholds:
    - max_connections: {connections}
"""
    return f"""  circuit_breakers:
    # The defaults (1024 of each) would queue or refuse what is measured.
    thresholds:
    - max_connections: {_NO_LIMIT}
      max_requests: {_NO_LIMIT}
      max_pending_requests: {pending}
{per_host}"""


def _outliers(task: Task) -> str:
    if not task.failover:
        return ""
    return """  outlier_detection:
    # Resets count as well.
    consecutive_5xx: 5
    interval: 1s
    base_ejection_time: 5s
    max_ejection_percent: 50
"""


def _protocol(task: Task) -> str:
    if task.job not in _PROTOCOLS:
        return ""
    options = _PROTOCOLS[task.job]
    if task.job in _H2 and task.endpoint_limit:
        options = f"http2_protocol_options: {{max_concurrent_streams: {task.endpoint_limit}}}"
    return f"""  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      common_http_protocol_options: {{idle_timeout: 3600s}}
      explicit_http_config:
        {options}
"""


def _checks(task: Task) -> str:
    if not task.checks:
        return ""
    kind = {
        "http": "http_health_check: {path: /}",
        "oip": "http_health_check: {path: /}",
        "http2": "http_health_check: {path: /, codec_client_type: HTTP2}",
        "grpc": "grpc_health_check: {}",
        "tcp": "tcp_health_check: {}",
    }[task.job]
    return f"""  health_checks:
  - timeout: 1s
    interval: 1s
    # A cluster that has seen no request yet would be checked once a minute.
    no_traffic_interval: 1s
    unhealthy_threshold: 2
    healthy_threshold: 1
    {kind}
"""
