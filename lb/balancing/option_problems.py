"""What is wrong with the options of a policy, in sentences for operators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from lb.balancing.options import FROM_FILE, PolicyOptions
from lb.config.document import value_at, where
from lb.config.plugins import words_of


def option_problems(
    model: type[PolicyOptions], options: dict[str, Any], protocol: str | None = None
) -> Iterator[tuple[str, str]]:
    """`protocol` is the pool's; None where the configuration was checked already."""
    try:
        made = model.model_validate(options, context=FROM_FILE)
        found = [] if protocol is None else list(made.problems(protocol))
    except ValidationError as error:
        from lb.config.advice.explain import message  # loaded when there is a mistake

        for detail in error.errors(include_url=False):
            yield where(detail["loc"]), message(detail, model, value_at(options, detail["loc"]))
    except BaseException as error:  # a plug-in's validator
        yield "", f"the options cannot be checked: {words_of(error)}"
    else:
        yield from found
