"""Texts of routes: values of headers, paths, hosts and URLs, which may have values of the request."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

from lb.config.advice.literal import quoted, replacement_advice
from lb.config.advice.variables import known_variable_advice, path_variable_advice, valued_advice
from lb.config.schema.base import problem, text
from lb.config.schema.values import valued
from lb.config.values import has_values, parse, spelled

_URL = re.compile(
    r"(https?)://([A-Za-z0-9_.-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?)(/[^?#\s]*)?", re.ASCII
)


def _no_url(value: Any) -> Any:
    found = _URL.match(value) if isinstance(value, str) else None
    if found is not None:
        raise problem(
            "rewrite", f"{value!r} is a URL; write host: {quoted(found[2])}, and scheme: {found[1]} to redirect"
        )
    return value


def _host_alone(value: Any) -> Any:
    if isinstance(value, str) and (found := _URL.match(value)) is not None:
        raise problem("text", f"{value!r} is a URL; write {quoted(found[2])}")
    if isinstance(value, str) and re.search(r"[$%{]", value):
        raise problem("text", f"{value!r}: leave it out, and the host stays as it was; a value is ${{request.host}}")
    return value


def _no_variables(value: Any) -> Any:
    if isinstance(value, str) and (said := known_variable_advice(value)):
        raise problem("text", f"{spelled(value)!r} {said}")
    return value


FieldValue = Annotated[
    str,
    *valued(
        r"(?:[!-~](?:[ \t!-~]{0,4094}[!-~])?)?", "is not a header's value: visible ASCII", r"[ \t!-~]*", valued_advice
    ),
]
Replacement = Annotated[
    str,
    BeforeValidator(_no_url),
    *valued(
        r'/[!"$->@-~]{0,4095}',
        "is not a path: it begins with / and has no spaces, '?' or '#'",
        r'[!"$->@-~]*',
        path_variable_advice,
        replacement_advice,
        encoding="path",
    ),
]
Host = Annotated[
    str,
    BeforeValidator(_host_alone),
    *text(
        r"(?:[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?",
        "is not a host such as example.org or example.org:8080",
    ),
]
ValuedHost = Annotated[
    str,
    BeforeValidator(_host_alone),
    *valued(
        r"(?:[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?",
        "is not a host such as example.org, example.org:8080 or www.${request.host}",
        r"[A-Za-z0-9_.:-]*",
        encoding="host",
    ),
]
Location = Annotated[
    str,
    BeforeValidator(_no_variables),
    *valued(
        r"(?:https?://[!-z|~]+|/(?![/\\])[!-z|~]*)",
        "is not a URL such as https://login.example.org/?next=${request.uri}",
        r"[!-z|~]*",
        known_variable_advice,
        encoding="url",
    ),
]


def checked_text(value: str) -> str:
    """A free text. Raises PydanticCustomError for a value that there is not, and for a variable of others."""
    if not has_values(value):
        if said := known_variable_advice(value):
            raise problem("text", said)
        return value
    try:
        parse(value, "text")
    except ValueError as error:
        raise problem("text", str(error)) from None
    return value


def checked_name(value: str) -> str:
    """A text that differs among requests. Raises likewise."""
    if not has_values(value):
        raise problem("text", f"{value!r} is the same for every request; a value is ${{header.x-pool}}")
    return checked_text(value)


LogField = Annotated[
    str, *text(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", "is not a field's name: letters, digits, '_', '.' and '-', at most 64")
]
