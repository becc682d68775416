"""The scenarios, by name, in the order in which they run."""

from bench.scenarios import (
    autoscale_trace,
    cache_hit,
    cache_mixed,
    cold_start,
    grpc_stream,
    grpc_unary,
    http1_new_connections,
    idle_connections,
    many_routes,
    oip_binary,
    oip_json,
    onnx_digits,
    overload,
    overload_classes,
    proxy_http1,
    proxy_http2,
    reload_under_load,
    stalling_endpoint,
    tcp_bulk,
    tcp_small,
    tls_handshake,
    tls_keepalive,
    udp,
    uneven_endpoints,
)
from bench.scenarios.base import Scenario

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        proxy_http1.SCENARIO,
        proxy_http1.LARGE,
        http1_new_connections.SCENARIO,
        many_routes.SCENARIO,
        proxy_http2.SCENARIO,
        proxy_http2.SINGLE,
        grpc_unary.SCENARIO,
        grpc_unary.PAGE,
        grpc_unary.LARGE,
        grpc_stream.SCENARIO,
        oip_json.SCENARIO,
        oip_binary.SCENARIO,
        oip_binary.LARGE,
        cache_hit.SCENARIO,
        cache_mixed.SCENARIO,
        tcp_small.SCENARIO,
        tcp_bulk.SCENARIO,
        udp.SCENARIO,
        tls_keepalive.SCENARIO,
        tls_handshake.SCENARIO,
        idle_connections.SCENARIO,
        idle_connections.HTTP2,
        reload_under_load.SCENARIO,
        uneven_endpoints.SCENARIO,
        stalling_endpoint.SCENARIO,
        stalling_endpoint.HEDGED,
        overload.SCENARIO,
        overload_classes.SCENARIO,
        autoscale_trace.SCENARIO,
        cold_start.SCENARIO,
        onnx_digits.SCENARIO,
    )
}

__all__ = ["SCENARIOS", "Scenario"]
