#!/usr/bin/env python3
"""Writes monitoring/grafana/tidegate.json, the board for Grafana: `make docs` runs it. With --check it compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[1] / "monitoring" / "grafana" / "tidegate.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
OURS = 'job=~"$job", instance=~"$instance"'
ROUTE = f'{OURS}, route=~"$route"'
POOL = f'{OURS}, pool=~"$pool"'
MODEL = f'{POOL}, model=~"$model"'
WINDOW = "[$__rate_interval]"
HITS = "hit|collapsed|stale|revalidated"
WIDE = 24  # columns of Grafana's grid


def rate(metric: str, labels: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{labels}}}{WINDOW}))"


def quantile(q: float, metric: str, labels: str, by: str = "") -> str:
    groups = ", ".join(filter(None, ["le", by]))
    return f"histogram_quantile({q}, sum by ({groups}) (rate({metric}_bucket{{{labels}}}{WINDOW})))"


def share(part: str, whole: str) -> str:
    return f"{part} / ({whole} > 0)"


# Rows of panels: title, kind, unit, width, [(expression, legend)].
Panel = tuple[str, str, str, int, list[tuple[str, str]]]
ROWS: list[tuple[str, list[Panel]]] = [
    (
        "Overview",
        [
            ("Requests", "stat", "reqps", 4, [(f"sum(rate(tidegate_route_requests_total{{{ROUTE}}}{WINDOW}))", "")]),
            (
                "Errors of servers",
                "stat",
                "percentunit",
                4,
                [
                    (
                        share(
                            f"sum(rate(tidegate_route_errors_total{{{ROUTE}}}{WINDOW}))",
                            f"sum(rate(tidegate_route_requests_total{{{ROUTE}}}{WINDOW}))",
                        ),
                        "",
                    )
                ],
            ),
            ("p99", "stat", "s", 4, [(quantile(0.99, "tidegate_route_request_duration_seconds", ROUTE), "")]),
            (
                "Endpoints up",
                "stat",
                "short",
                4,
                [(f"sum(tidegate_endpoint_up{{{POOL}}})", "up"), (f"count(tidegate_endpoint_up{{{POOL}}})", "all")],
            ),
            ("Waiting in queues", "stat", "short", 4, [(f"sum(tidegate_pool_queue_length{{{POOL}}})", "")]),
            (
                "Last reload took effect",
                "stat",
                "bool_yes_no",
                4,
                [(f"min(tidegate_last_reload_success{{{OURS}}})", "")],
            ),
        ],
    ),
    (
        "Routes",
        [
            (
                "Requests by status",
                "timeseries",
                "reqps",
                8,
                [(rate("tidegate_route_requests_total", ROUTE, "code"), "{{code}}")],
            ),
            (
                "Latency",
                "timeseries",
                "s",
                8,
                [
                    (quantile(q, "tidegate_route_request_duration_seconds", ROUTE), f"p{100 * q:.0f}")
                    for q in (0.5, 0.95, 0.99)
                ],
            ),
            (
                "Error budget: burn rate of 99.9 %",
                "timeseries",
                "short",
                8,
                [
                    (
                        share(
                            rate("tidegate_route_errors_total", ROUTE, "route"),
                            rate("tidegate_route_requests_total", ROUTE, "route"),
                        )
                        + " / 0.001",
                        "{{route}}",
                    ),
                ],
            ),
            (
                "Requests by route",
                "timeseries",
                "reqps",
                8,
                [(rate("tidegate_route_requests_total", ROUTE, "route"), "{{route}}")],
            ),
            (
                "p99 by route",
                "timeseries",
                "s",
                8,
                [(quantile(0.99, "tidegate_route_request_duration_seconds", ROUTE, "route"), "{{route}}")],
            ),
            (
                "gRPC by status",
                "timeseries",
                "reqps",
                8,
                [(rate("tidegate_route_grpc_requests_total", ROUTE, "grpc_code"), "{{grpc_code}}")],
            ),
            (
                "Refused, late and left",
                "timeseries",
                "reqps",
                8,
                [
                    (rate(f"tidegate_route_{name}_total", ROUTE, "job"), text)
                    for name, text in (
                        ("rejected", "refused here"),
                        ("timeouts", "deadline passed"),
                        ("client_aborts", "client left"),
                    )
                ],
            ),
            (
                "Retries and hedges",
                "timeseries",
                "reqps",
                8,
                [(rate(f"tidegate_route_{name}_total", ROUTE, "job"), name) for name in ("retries", "hedges")],
            ),
            (
                "In flight",
                "timeseries",
                "short",
                8,
                [(f"sum by (route) (tidegate_route_in_flight{{{ROUTE}}})", "{{route}}")],
            ),
        ],
    ),
    (
        "Models",
        [
            (
                "Inferences by model",
                "timeseries",
                "reqps",
                8,
                [(rate("tidegate_inference_requests_total", MODEL, "pool, model"), "{{pool}} {{model}}")],
            ),
            (
                "p99 by model",
                "timeseries",
                "s",
                8,
                [
                    (
                        quantile(0.99, "tidegate_inference_request_duration_seconds", MODEL, "pool, model"),
                        "{{pool}} {{model}}",
                    )
                ],
            ),
            (
                "Error budget by model: burn rate of 99.9 %",
                "timeseries",
                "short",
                8,
                [
                    (
                        share(
                            rate("tidegate_inference_errors_total", MODEL, "pool, model"),
                            rate("tidegate_inference_requests_total", MODEL, "pool, model"),
                        )
                        + " / 0.001",
                        "{{pool}} {{model}}",
                    ),
                ],
            ),
            (
                "Inferences without a result by reason",
                "timeseries",
                "reqps",
                8,
                [(rate("tidegate_inference_failures_total", MODEL, "reason"), "{{reason}}")],
            ),
            (
                "gRPC statuses of inferences",
                "timeseries",
                "reqps",
                8,
                [(rate("tidegate_inference_grpc_requests_total", MODEL, "grpc_code"), "{{grpc_code}}")],
            ),
            (
                "Answered by the result cache",
                "timeseries",
                "percentunit",
                8,
                [
                    (
                        share(
                            rate("tidegate_inference_cached_total", MODEL, "pool, model"),
                            rate("tidegate_inference_requests_total", MODEL, "pool, model"),
                        ),
                        "{{pool}} {{model}}",
                    )
                ],
            ),
        ],
    ),
    (
        "Pools and endpoints",
        [
            (
                "Endpoints that are not up",
                "timeseries",
                "short",
                8,
                [(f"count by (pool) (tidegate_endpoint_up{{{POOL}}} == 0)", "{{pool}}")],
            ),
            (
                "Share of errors by endpoint",
                "timeseries",
                "percentunit",
                8,
                [
                    (
                        share(
                            rate("tidegate_endpoint_errors_total", POOL, "pool, endpoint"),
                            rate("tidegate_endpoint_requests_total", POOL, "pool, endpoint"),
                        ),
                        "{{pool}} {{endpoint}}",
                    )
                ],
            ),
            (
                "p99 by endpoint",
                "timeseries",
                "s",
                8,
                [
                    (
                        quantile(0.99, "tidegate_endpoint_request_duration_seconds", POOL, "pool, endpoint"),
                        "{{pool}} {{endpoint}}",
                    )
                ],
            ),
            (
                "Requests by endpoint",
                "timeseries",
                "reqps",
                8,
                [(rate("tidegate_endpoint_requests_total", POOL, "pool, endpoint"), "{{pool}} {{endpoint}}")],
            ),
            (
                "In flight by endpoint",
                "timeseries",
                "short",
                8,
                [(f"sum by (pool, endpoint) (tidegate_endpoint_in_flight{{{POOL}}})", "{{pool}} {{endpoint}}")],
            ),
            (
                "Failed attempts by kind",
                "timeseries",
                "reqps",
                8,
                [
                    (rate(f"tidegate_pool_{name}_total", POOL, "pool"), f"{{{{pool}}}} {text}")
                    for name, text in (
                        ("connect_errors", "no connection"),
                        ("response_errors", "broken answer"),
                        ("timeouts", "too late"),
                    )
                ],
            ),
            (
                "Queue length",
                "timeseries",
                "short",
                8,
                [(f"sum by (pool) (tidegate_pool_queue_length{{{POOL}}})", "{{pool}}")],
            ),
            (
                "p95 of the time in the queue",
                "timeseries",
                "s",
                8,
                [(quantile(0.95, "tidegate_pool_queue_wait_seconds", POOL, "pool"), "{{pool}}")],
            ),
            (
                "Turned away by the queue",
                "timeseries",
                "reqps",
                8,
                [(rate("tidegate_pool_queue_ended_total", POOL, "pool, reason"), "{{pool}} {{reason}}")],
            ),
        ],
    ),
    (
        "Model servers and jobs",
        [
            (
                "Model servers",
                "timeseries",
                "short",
                8,
                [
                    (f"sum by (pool) (tidegate_replicas_wanted{{{POOL}}})", "{{pool}} wanted"),
                    (f'sum by (pool) (tidegate_replicas{{{POOL}, state="ready"}})', "{{pool}} ready"),
                ],
            ),
            (
                "Changes of their number",
                "timeseries",
                "short",
                8,
                [
                    (
                        f"sum by (pool, direction) (increase(tidegate_scale_events_total{{{POOL}}}{WINDOW}))",
                        "{{pool}} {{direction}}",
                    )
                ],
            ),
            (
                "Restarts",
                "timeseries",
                "short",
                8,
                [(f"sum by (pool) (increase(tidegate_replica_restarts_total{{{POOL}}}{WINDOW}))", "{{pool}}")],
            ),
            ("Jobs by state", "timeseries", "short", 12, [(f"sum by (state) (tidegate_jobs{{{ROUTE}}})", "{{state}}")]),
            (
                "Age of the oldest queued job",
                "timeseries",
                "s",
                12,
                [(f"max by (instance) (tidegate_jobs_oldest_queued_seconds{{{OURS}}})", "{{instance}}")],
            ),
        ],
    ),
    (
        "Caches",
        [
            (
                "Hit ratio",
                "timeseries",
                "percentunit",
                8,
                [
                    (
                        share(
                            f'sum(rate(tidegate_cache_requests_total{{{ROUTE}, result=~"{HITS}"}}{WINDOW}))',
                            f'sum(rate(tidegate_cache_requests_total{{{ROUTE}, result=~"{HITS}|miss"}}{WINDOW}))',
                        ),
                        "",
                    )
                ],
            ),
            (
                "Requests by result",
                "timeseries",
                "reqps",
                8,
                [(rate("tidegate_cache_requests_total", ROUTE, "result"), "{{result}}")],
            ),
            (
                "Memory",
                "timeseries",
                "bytes",
                8,
                [
                    (f"sum(tidegate_cache_bytes{{{OURS}}})", "used"),
                    (f"sum(tidegate_cache_capacity_bytes{{{OURS}}})", "of"),
                ],
            ),
        ],
    ),
    (
        "The daemon",
        [
            (
                "Workers that run",
                "timeseries",
                "short",
                8,
                [(f"sum by (instance) (tidegate_worker_up{{{OURS}}})", "{{instance}}")],
            ),
            (
                "Connections of clients",
                "timeseries",
                "short",
                8,
                [(f"sum by (listener) (tidegate_listener_open_connections{{{OURS}}})", "{{listener}}")],
            ),
            (
                "Days until certificates expire",
                "timeseries",
                "d",
                8,
                [(f"(tidegate_tls_certificate_not_after_seconds{{{OURS}}} - time()) / 86400", "{{owner}}")],
            ),
        ],
    ),
]


def panel(number: int, spot: tuple[int, int, int, int], found: Panel) -> dict[str, Any]:
    title, kind, unit, _, targets = found
    x, y, width, height = spot
    return {
        "id": number,
        "title": title,
        "type": kind,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": width, "h": height},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}} if kind == "timeseries" else {},
        "targets": [
            {"refId": "ABCDEF"[i], "datasource": SOURCE, "expr": expression, "legendFormat": legend or "__auto"}
            for i, (expression, legend) in enumerate(targets)
        ],
    }


def panels() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        made.append(
            {"id": len(made) + 1, "title": title, "type": "row", "collapsed": False, "panels": [],
             "gridPos": {"x": 0, "y": y, "w": WIDE, "h": 1}}
        )  # fmt: skip
        y, x, height = y + 1, 0, 4 if row[0][1] == "stat" else 8
        for found in row:
            if x + found[3] > WIDE:
                x, y = 0, y + height
            made.append(panel(len(made) + 1, (x, y, found[3], height), found))
            x += found[3]
        y += height
    return made


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name, "label": label, "type": "query", "datasource": SOURCE, "refresh": 2, "sort": 1,
        "query": {"query": query, "refId": name}, "includeAll": True, "multi": True, "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip


def board() -> dict[str, Any]:
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}}
    return {
        "uid": "tidegate",
        "title": "Tidegate",
        "tags": ["tidegate"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,
        "templating": {
            "list": [
                source,
                variable("job", "Job", "label_values(tidegate_build_info, job)"),
                variable("instance", "Daemon", 'label_values(tidegate_build_info{job=~"$job"}, instance)'),
                variable("route", "Route", f"label_values(tidegate_route_requests_total{{{OURS}}}, route)"),
                variable("pool", "Pool", f"label_values(tidegate_endpoint_up{{{OURS}}}, pool)"),
                variable("model", "Model", f"label_values(tidegate_inference_requests_total{{{OURS}}}, model)"),
            ]
        },
        "annotations": {"list": []},
        "panels": panels(),
    }


def main() -> None:
    text = json.dumps(board(), indent=1) + "\n"
    if "--check" in sys.argv:
        sys.exit(0 if FILE.read_text() == text else f"{FILE} is not what tools/board.py writes: run it")
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(text)


if __name__ == "__main__":
    main()
