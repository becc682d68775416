"""Affinity of a pool: which requests stay with the endpoint that had the ones before."""

from __future__ import annotations

from pydantic import Field

from lb.config.base import Boolean, Model
from lb.config.plan import SequencePlan
from lb.config.units import MILLISECOND, MINUTE, Duration


class SequenceConfig(Model):
    """Sequences of inference requests (Triton's `sequence_id`, `sequence_start`, `sequence_end`): all requests of one
    reach the endpoint of its first, whichever worker they come to, and are never retried, moved or answered from the
    cache. `oip` only."""

    enabled: Boolean = True
    """`false`: requests of a sequence go where any request would."""
    idle_timeout: Duration = Field(default=MINUTE, ge=MILLISECOND)
    """A sequence without a request for this long is over. Longer than the server's own limit
    (`max_sequence_idle_microseconds` of Triton, by default one second), so that it is the server that ends a sequence
    and never this table that forgets one which the server still has."""
    drain_timeout: Duration = 5 * MINUTE
    """For how long an endpoint that was removed from the configuration goes on serving the sequences that it has. A
    managed model server has the `drain_timeout` of its `serve` section; `tidegate drain` has no limit."""


class AffinityConfig(Model):
    """Which requests stay with the endpoint that had the ones before. Keys that decide by themselves (a header, the
    source) are the `key` of the hashing policies."""

    sequence: SequenceConfig = SequenceConfig()
    """Sequences of inference requests. `oip` only, where it is on by default."""


def sequence_plan(protocol: str, affinity: AffinityConfig) -> SequencePlan | None:
    """The plan of a pool's sequences; None where it has none."""
    sequence = affinity.sequence
    if protocol != "oip" or not sequence.enabled:
        return None
    return SequencePlan(sequence.idle_timeout, sequence.drain_timeout)
