"""Datagrams: the limits of udp listeners, and the plan's side of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from lb.config.plan.plan import UdpPlan
from lb.config.schema.base import Integer, Model
from lb.config.units import GIB, KIB, Size

if TYPE_CHECKING:
    from lb.config.plan.compile import Allocator


class UdpConfig(Model):
    """Sessions of a `udp` listener. A session is what one address and port of a client has to do with one endpoint; it
    holds a descriptor and a port of its own towards the endpoint."""

    max_sessions: Integer = Field(default=10_000, ge=1, le=1_000_000)
    """Most sessions of this listener, in all workers together; datagrams of further clients are dropped. It bounds
    descriptors and memory (some 3 KiB each, most of it the kernel's) against forged senders. Every session has a port:
    Linux gives out some 28,000 unless `net.ipv4.ip_local_port_range` says otherwise. All listeners together have half
    of a worker's open files at most in each worker."""
    max_sessions_per_source: Integer = Field(default=0, ge=0, le=1_000_000)
    """Most sessions of one client's address (of one /64 with IPv6), or as the listener's `source_network` says, in all
    workers together. Keep it above what stands
    behind one NAT. `0`: no limit of its own."""
    max_datagram: Size = Field(default=64 * KIB, ge=1, le=64 * KIB)
    """Largest datagram either way; a larger one is dropped. The default takes all that UDP can carry."""
    receive_buffer: Size = Field(default=0, le=1 * GIB)
    """Room for datagrams that wait for a worker, in each worker's socket (SO_RCVBUF). The kernel keeps twice of it, and
    counts some 768 bytes for a small datagram. It bridges bursts, and the moment in which a worker that died is
    replaced. More than `net.core.rmem_max` needs CAP_NET_ADMIN; when the kernel gives less, the log and
    `tidegate status --json` say so. `0B`: as `net.core.rmem_default`."""
    responses: Integer | None = Field(default=None, ge=0, le=1_000_000)
    """Answers that the endpoint gives to each datagram of a client. Once all are there the session ends and its
    resources are free: `1` for DNS, `0` for what nobody answers, as syslog. Default: not known, so that a session ends
    by `idle_timeout`."""
    requests: Integer | None = Field(default=None, ge=1, le=1_000_000)
    """Datagrams of a client after which its next one begins a new session, perhaps with another endpoint. Default: any
    number. With `1` every datagram is balanced on its own, at the price of a socket each."""


def lasting(config: UdpConfig) -> bool:
    """Whether a session belongs to its endpoint until it is silent; one with a known number of answers or questions is
    over before a worker's death could matter."""
    return config.responses is None and config.requests is None


def udp_plan(config: UdpConfig, name: str, allocator: Allocator) -> UdpPlan:
    """The plan of the udp listener `name`."""
    return UdpPlan(
        series=allocator.series("udp-listener", name),
        max_sessions=config.max_sessions,
        max_sessions_per_source=config.max_sessions_per_source,
        max_datagram=config.max_datagram,
        receive_buffer=config.receive_buffer,
        responses=-1 if config.responses is None else config.responses,
        requests=config.requests or 0,
        lasting=lasting(config),
    )
