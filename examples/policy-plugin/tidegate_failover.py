"""Endpoints in order of preference: the first takes everything, the next one what the one before has no room for.

For a model on a local GPU with a rented one behind it, or for a primary and a standby.
"""

from __future__ import annotations

from pydantic import Field

from lb.balancing.options import PolicyOptions
from lb.balancing.policy import Policy
from lb.endpoints.choice import Choice
from lb.endpoints.set import EndpointSet


class FailoverOptions(PolicyOptions):
    full: int | None = Field(default=None, ge=1, strict=True)
    """Requests in flight (over all workers, per unit of weight) at which an endpoint is full. Default: it never is."""


class Failover(Policy):
    """The first endpoint of the pool that is available and not full; if all are full, the first available one."""

    Options = FailoverOptions

    def __init__(self, endpoints: EndpointSet, options: FailoverOptions) -> None:
        super().__init__(endpoints, options)
        self.full = options.full

    def pick(self, choice: Choice) -> int:
        endpoints = self.endpoints
        available = [i for i in range(endpoints.size) if choice.available(i)]
        for i in available:
            if self.full is None or endpoints.load(i) < self.full * endpoints.weight(i):
                return i
        return available[0] if available else -1
