"""A file of endpoints, as discovery reads it: checked like the `endpoints` of the configuration, with lines."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from lb.config.checks.endpoints import check_endpoints, unnamed
from lb.config.document import MalformedError, Problem, parse_list
from lb.config.problems import field_problem, listed, malformed
from lb.config.schema.base import Model
from lb.config.schema.pools.pool import EndpointConfig, EndpointList, PoolConfig


class EndpointFile(Model):
    """The whole of such a file."""

    endpoints: EndpointList
    """The servers; an empty list says that there are none now."""


def parse_endpoints(raw: bytes, path: Path, name: str, pool: PoolConfig) -> list[EndpointConfig]:
    """The endpoints that `raw`, the content of the file `path`, gives the pool `name`.

    Raises ConfigError with one line `FILE:LINE: path.to.key: message` for every problem.
    """
    try:
        document = parse_list(raw, "endpoints")
    except MalformedError as error:
        raise malformed(path, error) from None
    problems = set(document.problems)
    found: list[EndpointConfig] = []
    try:
        found = EndpointFile.model_validate(document.data).endpoints
    except ValidationError as error:
        known = {p.path for p in problems}
        for detail in error.errors(include_url=False):
            problem = field_problem(document, detail, EndpointFile)
            if problem.path not in known:
                problems.add(problem)
    for place, text in check_endpoints("endpoints", name, pool, found):
        problems.add(Problem(document.line(place), place, text))
    address = unnamed(pool, found)
    if address is not None:
        text = f"{address} has no name that its certificate could be checked for: tls.server_name is needed"
        problems.add(Problem(document.line("endpoints"), "endpoints", text))
    if problems:
        raise listed(path, sorted(problems))
    return found
