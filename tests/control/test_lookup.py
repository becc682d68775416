"""What there is, in the errors of names that there are not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from lb.config.plan.plan import Plan
from lb.config.schema.base import listed
from lb.control.endpoints.lookup import find_endpoint
from lb.errors import ConfigError


@pytest.mark.parametrize(
    ("names", "shown"),
    [([], "none"), (["a"], "a"), (["a", "b", "c"], "a, b, c"), (["a", "b", "c", "d", "e"], "a, b, c and 2 more")],
)
def test_a_list_is_bounded(names: list[str], shown: str) -> None:
    assert listed(names, 3) == shown


def test_a_pool_of_a_thousand_endpoints_does_not_flood_the_terminal() -> None:
    endpoints = [SimpleNamespace(address=f"10.0.{n // 250}.{n % 250}:8001") for n in range(1000)]
    plan = cast(Plan, SimpleNamespace(pools=[SimpleNamespace(name="chat", endpoints=endpoints)]))
    with pytest.raises(ConfigError) as refused:
        find_endpoint(plan, "chat", "10.0.3.249:8002")
    text = str(refused.value)
    assert "it has 10.0.3.249:8001, 10.0.0.0:8001, " in text
    assert text.endswith("10.0.0.8:8001 and 990 more")
    assert len(text) < 300
