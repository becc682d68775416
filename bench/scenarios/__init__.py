"""The scenarios, by name, in the order of the default run."""

from bench.scenarios import cached_post, http1, idle, oip_binary, tcp
from bench.scenarios.base import Limit, Metric, Scenario

SCENARIOS: dict[str, Scenario] = {
    module.SCENARIO.name: module.SCENARIO for module in (http1, tcp, oip_binary, cached_post, idle)
}

__all__ = ["SCENARIOS", "Limit", "Metric", "Scenario"]
