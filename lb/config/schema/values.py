"""Texts that may have values of the request (lb.config.values): what is checked of them in one key alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pydantic import AfterValidator, Field

from lb.config.schema.base import problem
from lb.config.values import OF_ERRORS, has_values, literals_in, parse, spelled, values_in


def valued(
    pattern: str, message: str, literal: str, *advice: Callable[[str], str], encoding: str = "field", limit: int = 4096
) -> tuple[AfterValidator, Any]:
    """A validator for text of the form `pattern`, whose error is `VALUE MESSAGE`, or with values of the request, whose
    literal parts then have the form `literal`. `advice` says what is wrong with other text, or nothing."""

    def check(value: str) -> str:
        if not has_values(value):
            if not re.fullmatch(pattern, value, re.ASCII):
                raise problem("text", f"{value!r} {message}")
            _advise(value, advice)
            return value
        try:
            parts = parse(value, encoding)
        except ValueError as error:
            raise problem("text", f"{spelled(value)!r}: {error}") from None
        if len(value) > limit:
            raise problem("text", f"{spelled(value)[:64]!r}… is longer than {limit} characters")
        for part in literals_in(parts):
            if not re.fullmatch(literal, part, re.ASCII):
                raise problem("text", f"{spelled(value)!r} {message}")
            _advise(part, advice)
        return value

    form = rf"{pattern}|[\s\S]*\$\{{[\s\S]*"
    return AfterValidator(check), Field(json_schema_extra={"pattern": f"^(?:{form})$"})


def checked_key(value: str) -> str:
    """`value`, a text that something is looked up or hashed by, where no route is known and no endpoint has answered.
    Raises PydanticCustomError for values that there are not, or are of a route."""
    try:
        found = list(values_in(parse(value, "text")))
    except ValueError as error:
        raise problem("text", f"{spelled(value)!r}: {error}") from None
    for one in found:
        if one.name in ("map", "table", "capture", "endpoint.address") or one.name in OF_ERRORS:
            raise problem("text", f"{spelled(value)!r}: a key cannot have {one.spelling}")
    return value


def _advise(value: str, advice: tuple[Callable[[str], str], ...]) -> None:
    for say in advice:
        if said := say(value):
            raise problem("text", f"{value!r} {said}")
