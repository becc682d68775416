"""What pools need, in the form of Kubernetes' external metrics, for a HorizontalPodAutoscaler to act on.

    GET /apis/external.metrics.k8s.io/v1beta1
        /apis/external.metrics.k8s.io/v1beta1/namespaces/NAMESPACE/METRIC?labelSelector=pool=NAME

A metric that is not known is left out, so that the autoscaler changes nothing. Source: Kubernetes,
`k8s.io/metrics/pkg/apis/external_metrics/v1beta1`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from lb.control.engines.pools import EnginePools
from lb.control.engines.scaled import ScaledPool

VERSION = "external.metrics.k8s.io/v1beta1"
PATH = f"/apis/{VERSION}"
METRICS = ("tidegate-replicas-wanted", "tidegate-requests", "tidegate-requests-waiting")


def resources() -> dict[str, Any]:
    """The document by which the API server learns what there is."""
    rows = [
        {"name": name, "singularName": "", "namespaced": True, "kind": "ExternalMetricValueList", "verbs": ["get"]}
        for name in METRICS
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": VERSION, "resources": rows}


def values(engines: EnginePools, metric: str, selector: str) -> dict[str, Any] | None:
    """The values of a metric for the pools that a label selector (`pool=NAME`, or none) chooses; None where there is no
    such metric. Raises ValueError for a selector of another form."""
    if metric not in METRICS:
        return None
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    found = ((name, _value(pool, metric)) for name, pool in engines.items() if name in _chosen(engines, selector))
    items = [
        {"metricName": metric, "metricLabels": {"pool": name}, "timestamp": now, "value": str(value)}
        for name, value in found
        if value is not None
    ]
    return {"kind": "ExternalMetricValueList", "apiVersion": VERSION, "metadata": {}, "items": items}


def _chosen(engines: EnginePools, selector: str) -> set[str]:
    if not selector:
        return {name for name, _ in engines.items()}
    key, sign, value = selector.replace("==", "=").partition("=")
    if key.strip() != "pool" or not sign or "," in value:
        raise ValueError("labelSelector: only pool=NAME is understood")
    return {value.strip()}


def _value(pool: ScaledPool, metric: str) -> int | None:
    if metric == "tidegate-replicas-wanted":
        return pool.advice()
    return round(pool.busy() if metric == "tidegate-requests" else pool.waiting())
