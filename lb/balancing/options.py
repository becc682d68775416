"""The options of a policy: the keys that stand beside `type` and `key` in a pool's `policy`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class PolicyOptions(BaseModel):
    """Options of a policy that has none, and base of those that have some: closed, immutable, documented by its
    attributes' docstrings."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, hide_input_in_errors=True
    )
