"""What some jobs leave no room for, whatever the proxy; and what every proxy needs to know of a setup."""

from __future__ import annotations

from bench.errors import BenchError, Cannot
from bench.peers.base import Certificate, Setup, Task

# The methods of gRPC's health protocol; servers that lack it answer with HTTP status 200 too.
GRPC_HEALTH = "/grpc.health.v1.Health/Check"


def refuse_nonsense(task: Task) -> None:
    """Raises Cannot for options that have no meaning for the job."""
    if task.routes > 1 and task.job in ("tcp", "udp"):
        raise Cannot("bytes and datagrams have no path to route by")
    if task.tls and task.job == "udp":
        raise Cannot("it speaks no DTLS")
    if task.classes and task.job in ("tcp", "udp"):
        raise Cannot("bytes and datagrams have no head that says of which class they are")
    if task.untuned and (task.job not in ("http", "oip") or task.tls or task.routes > 1):
        raise Cannot("without tuning only HTTP/1.1 and inference requests in clear are measured")
    if task.failover and (task.job not in ("http", "oip") or task.routes > 1):
        raise Cannot("what fails is sent elsewhere only for HTTP/1.1 and inference requests")
    if task.endpoint_limit and task.job == "udp":
        raise Cannot("datagrams are no requests that could be counted")


def refuse_classes(task: Task) -> None:
    """Raises Cannot for a task of several classes; for proxies that have no queue by priority."""
    if task.classes:
        raise Cannot("it has no queue in which one request goes before another")


def certificate(setup: Setup) -> Certificate:
    """The setup's certificate. Raises BenchError if there is none."""
    if setup.certificate is None:
        raise BenchError("a task with TLS needs a certificate in its setup")
    return setup.certificate
