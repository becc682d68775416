"""`pools.NAME.cache`: what is refused and where, and what it compiles to."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest
from test_config_compile import Numbers

from lb.config.load import load
from lb.config.plan.compile import compile_plan
from lb.config.plan.plan import Plan
from lb.control.certificates import TlsFiles
from lb.errors import ConfigError

FILE = """\
listeners: {web: {bind: 127.0.0.1:8080, protocol: http, routes: [{pool: app}]}}
pools: {app: {protocol: %s, endpoints: ["127.0.0.1:8000"], cache: {%s}}}
%s
"""


def plan_of(folder: Path, protocol: str, cache: str, rest: str = "cache: {}") -> Plan:
    path = folder / "t.yaml"
    path.write_text(FILE % (protocol, cache, rest))
    config = load(path)
    return compile_plan(config, generation=1, workers=1, allocator=Numbers(), managed={}, material=TlsFiles().material)


@pytest.mark.parametrize(("cache", "rows"), [("rows: [a, b]", ("a", "b")), ("rows: []", ()), ("", ())])
def test_rows_are_models_of_the_pool(tmp_path: Path, cache: str, rows: tuple[str, ...]) -> None:
    plan = plan_of(tmp_path, "oip", cache)
    assert plan.pools[0].cache_rows == rows
    assert Plan.from_wire(msgpack.unpackb(msgpack.packb(plan.to_wire()))) == plan


@pytest.mark.parametrize(
    ("protocol", "cache", "rest", "problem"),
    [
        ("http", "rows: [a]", "cache: {}", "pools.app.cache: only for protocol oip"),
        ("oip", "rows: [a]", "", "pools.app.cache: there is no cache; add a section cache: {}"),
        ("oip", "rows: [a, b, a]", "cache: {}", "pools.app.cache.rows[2]: 'a' is in the list already"),
        ("oip", "rows: ['']", "cache: {}", "pools.app.cache.rows[0]: "),
        ("oip", "rows: a", "cache: {}", "pools.app.cache.rows: "),
        ("oip", "row: [a]", "cache: {}", "pools.app.cache.row: unknown key"),
    ],
)
def test_what_is_refused(tmp_path: Path, protocol: str, cache: str, rest: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        plan_of(tmp_path, protocol, cache, rest)
    assert problem in "\n".join(refused.value.problems)
