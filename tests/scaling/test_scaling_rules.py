"""Every named rule keeps the contract of `Scaler`, and the registry builds each with its options."""

from __future__ import annotations

import pytest
from looks import MINUTE
from scaling_contract import ScalerContract

from lb.config.schema.file import ScalingConfig
from lb.config.schema.pools.scaling import RULES
from lb.scaling import registry
from lb.scaling.scaler import Scaler


def test_every_rule_of_the_configuration_is_there() -> None:
    assert set(registry.RULES) == set(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_built_with_its_defaults(rule: str) -> None:
    assert registry.build(ScalingConfig.model_validate({"rule": rule})).name == rule


class TestHpa(ScalerContract):
    NAME = "hpa"
    PER_REPLICA = 2.0

    def make(self) -> Scaler:
        return registry.build(ScalingConfig.model_validate({"metrics": [{"type": "in_flight", "target": 2}]}))


class TestKpa(ScalerContract):
    NAME = "kpa"
    PER_REPLICA = 70.0

    def make(self) -> Scaler:
        return registry.build(ScalingConfig.model_validate({"rule": "kpa"}))


class TestKpaByRequestsPerSecond(ScalerContract):
    NAME = "kpa"
    PER_REPLICA = 140.0

    def make(self) -> Scaler:
        return registry.build(ScalingConfig.model_validate({"kpa": {"metric": "rps"}}))


class TestTargetTracking(ScalerContract):
    NAME = "target_tracking"
    PER_REPLICA = 0.5

    def make(self) -> Scaler:
        return registry.build(ScalingConfig.model_validate({"rule": "target_tracking"}))


class TestStep(ScalerContract):
    NAME = "step"
    PER_REPLICA = 0.5
    SETTLES = 180 * MINUTE

    def make(self) -> Scaler:
        return registry.build(ScalingConfig.model_validate({"rule": "step"}))


class TestRay(ScalerContract):
    NAME = "ray"
    PER_REPLICA = 2.0

    def make(self) -> Scaler:
        return registry.build(ScalingConfig.model_validate({"rule": "ray"}))
