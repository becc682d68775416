"""Envoy's listener and its routes, which are a file of their own: open connections see a change of them at once."""

from __future__ import annotations

from pathlib import Path

from bench.peers.base import Setup, Task, route_prefix
from bench.peers.limits import certificate

_H2 = ("http2", "grpc")


def listener(setup: Setup, route_file: Path) -> str:
    """The one resource of the listener file, as an item of a YAML list."""
    if setup.task.job == "udp":
        return _udp(setup)
    if setup.task.untuned:
        chain = _untuned_filter(route_file)
    else:
        chain = _tcp_filter() if setup.task.job == "tcp" else _http_filter(setup.task, route_file)
    return f"""- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: front
  address: {{socket_address: {{address: 127.0.0.1, port_value: {setup.port}}}}}
  tcp_backlog_size: 4096
  filter_chains:
  - filters:
{chain}{_tls(setup)}"""


def _http_filter(task: Task, route_file: Path) -> str:
    return f"""    - name: envoy.filters.network.http_connection_manager
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: front
        codec_type: {"HTTP2" if task.job in _H2 else "HTTP1"}
        # What every proxy here tells of the client; x-forwarded-host is added by the routes.
        use_remote_address: true
        append_x_forwarded_port: true
        # Its page on benchmarking advises against both: a random id for each request, statistics of each status code.
        generate_request_id: false
        http_filters:
        - name: envoy.filters.http.router
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
            dynamic_stats: false
            suppress_envoy_headers: true
        # Nothing idle may be cut off while it is measured.
        stream_idle_timeout: 0s
        common_http_protocol_options: {{idle_timeout: 3600s}}
        rds:
          route_config_name: routes
          config_source: {{resource_api_version: V3, path_config_source: {{path: {route_file}}}}}
"""


def _untuned_filter(route_file: Path) -> str:
    return f"""    - name: envoy.filters.network.http_connection_manager
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: front
        http_filters:
        - name: envoy.filters.http.router
          typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
        rds:
          route_config_name: routes
          config_source: {{resource_api_version: V3, path_config_source: {{path: {route_file}}}}}
"""


def _tcp_filter() -> str:
    return """    - name: envoy.filters.network.tcp_proxy
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
        stat_prefix: front
        cluster: servers
        idle_timeout: 3600s
"""


def _udp(setup: Setup) -> str:
    return f"""- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: front
  address: {{socket_address: {{protocol: UDP, address: 127.0.0.1, port_value: {setup.port}}}}}
  udp_listener_config:
    # The default of 1,500 bytes would cut off what fits into the loopback's larger packets.
    downstream_socket_config: {{max_rx_datagram_size: 9000}}
  listener_filters:
  - name: envoy.filters.udp_listener.udp_proxy
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig
      stat_prefix: front
      # A session, found by the client's address, ends only by this timeout.
      idle_timeout: 60s
      upstream_socket_config: {{max_rx_datagram_size: 9000}}
      matcher:
        on_no_match:
          action:
            name: route
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.Route
              cluster: servers
"""


def _tls(setup: Setup) -> str:
    task = setup.task
    if not task.tls:
        return ""
    files = certificate(setup)
    protocols = "" if task.job == "tcp" else f"          alpn_protocols: [{'h2' if task.job in _H2 else 'http/1.1'}]\n"
    return f"""    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
        common_tls_context:
{protocols}          tls_certificates:
          - certificate_chain: {{filename: {files.chain}}}
            private_key: {{filename: {files.key}}}
"""


def routes(task: Task) -> str:
    """The one resource of the route file, as an item of a YAML list."""
    if task.untuned:
        limit = f", timeout: {task.deadline:g}s" if task.deadline else ""
        return f"""- "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes: [{{match: {{prefix: /}}, route: {{cluster: servers{limit}}}}}]
"""
    head = """- "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: routes
  request_headers_to_add:
  - {header: {key: x-forwarded-host, value: "%REQ(:authority)%"}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
  virtual_hosts:
  - name: all
    domains: ["*"]
"""
    if task.failover:
        return f"{head}    routes: [{{match: {{prefix: /}}, route: {{cluster: servers, timeout: 0s, {_RETRIES}}}}}]\n"
    if task.routes == 1:
        return f"{head}    routes: [{{match: {{prefix: /}}, {_ROUTE}}}]\n"
    rules = "".join(f"            {route_prefix(i)}: *servers\n" for i in range(1, task.routes))
    return f"""{head}    # A tree by prefix: one look-up whatever the number of rules, where `routes` are tried in turn.
    matcher:
      matcher_tree:
        input:
          name: request-headers
          typed_config:
            "@type": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput
            header_name: ":path"
        prefix_match_map:
          map:
            {route_prefix(0)}: &servers
              action:
                name: route
                typed_config:
                  "@type": type.googleapis.com/envoy.config.route.v3.Route
                  match: {{prefix: /}}
                  {_ROUTE}
{rules}"""


_PREVIOUS = (
    "{name: envoy.retry_host_predicates.previous_hosts, typed_config: {"
    '"@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}'
)
_RETRIES = (
    'retry_policy: {retry_on: "5xx,reset,connect-failure,retriable-status-codes", retriable_status_codes: [429],'
    f" num_retries: 2, retry_host_predicate: [{_PREVIOUS}], host_selection_retry_max_attempts: 5}}"
)
# 0s: without a limit, where 15 s is the default.
_ROUTE = "route: {cluster: servers, timeout: 0s}"
