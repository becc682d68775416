"""The routes, pool and listener that jobs add to a configuration."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lb.config.schema.file import Config
from lb.control.configuration import load_configuration
from lb.control.jobs.routes import RESPOND_ASYNC, shares, with_jobs
from lb.control.reload import decide
from lb.errors import ConfigError

Load = Callable[[dict[str, Any]], Config]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def read(config: dict[str, Any]) -> Config:
        path = tmp_path / "tidegate.yaml"
        path.write_text(yaml.safe_dump(config))
        return load_configuration(path).config

    return read


def configuration(*routes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "listeners": {"web": {"bind": "127.0.0.1:0", "protocol": "http", "routes": list(routes)}},
        "pools": {
            "a": {"protocol": "http", "endpoints": ["127.0.0.1:1"]},
            "g": {"protocol": "grpc", "endpoints": ["127.0.0.1:2"]},
        },
        "jobs": {"path": "jobs.db"},
        **more,
    }


A, B = {"match": {"path": {"prefix": "/a/"}}, "pool": "a"}, {"match": {"path": {"prefix": "/b/"}}, "pool": "a"}


def test_without_jobs_nothing_is_added(load: Load, tmp_path: Path) -> None:
    config = load({**configuration(A), "jobs": None})
    assert with_jobs(config, lambda: tmp_path) is config


def test_routes_keep_their_names_and_get_others_beside_them(load: Load, tmp_path: Path) -> None:
    config = with_jobs(load(configuration(A, {**B, "jobs": True})), lambda: tmp_path)
    assert [route.name for route in config.listeners["web"].routes] == [
        "web/jobs", "web/jobs/result", "web/jobs/events", "web/jobs/retry", "web/0", "web/1/async", "web/1",
    ]  # fmt: skip
    assert [route.name for route in config.listeners["jobs"].routes] == ["web/1/job", "jobs/no-route"]
    assert config.pools["jobs"].protocol == "http"


def test_a_listener_without_such_routes_is_left_alone(load: Load, tmp_path: Path) -> None:
    document = configuration({**A, "jobs": True})
    document["listeners"]["other"] = {"bind": "127.0.0.1:0", "protocol": "http", "routes": [B]}
    config = load(document)
    assert with_jobs(config, lambda: tmp_path).listeners["other"] is config.listeners["other"]


def test_limits_are_of_submissions_and_changes_of_jobs(load: Load, tmp_path: Path) -> None:
    route = {
        **A,
        "jobs": True,
        "max_body": "1KiB",
        "rate_limit": {"rate": "5/s"},
        "rewrite": {"prefix": "/z/"},
        "request_headers": {"remove": ["x-a"]},
        "track": "clients",
        "table_rules": [{"when": {"clients": {"requests": {"above": 9}}}, "deny": 429}],
        "match": {
            "path": {"prefix": "/a/"},
            "headers": {"x-b": "1"},
            "source": ["10.0.0.0/8"],
            "tables": {"clients": {"gpt0": 0}},
        },
    }
    tables = {"clients": {"key": "${client.address}", "store": ["requests", "gpt0"]}}
    config = with_jobs(load(configuration(route, tables=tables)), lambda: tmp_path)
    outer = next(r for r in config.listeners["web"].routes if r.name == "web/0/async")
    assert outer.max_body == 1024
    assert outer.rate_limit is not None
    assert outer.rewrite is None
    assert outer.pool == "jobs"
    assert outer.match.source == ["10.0.0.0/8"]
    assert set(outer.match.headers) == {"x-b", "prefer", "content-type"}
    assert (outer.track, len(outer.table_rules), set(outer.match.tables)) == (["clients"], 1, {"clients"})
    inner = config.listeners["jobs"].routes[0]
    assert inner.rate_limit is None
    assert inner.rewrite is not None
    assert inner.priority == "low"
    assert inner.match.source is None
    assert (inner.track, inner.table_rules, inner.match.tables) == ([], [], {})
    assert set(inner.match.headers) == {"x-b", "x-tidegate-job-route"}
    assert inner.request_headers is not None
    assert inner.request_headers.remove == ["x-a", "X-Tidegate-Job-Route"]


@pytest.mark.parametrize(
    ("groups", "left"),
    [
        (
            {"any": [{"tables": {"clients": {"gpt0": 1}}, "method": "POST"}, {"headers": {"x-b": "1"}}]},
            {"any": [{"method": ["POST"]}, {"headers": ["x-b"]}], "none": []},
        ),
        # One of them may have held by the client alone.
        ({"any": [{"tables": {"clients": {"gpt0": 1}}}, {"headers": {"x-b": "1"}}]}, {"any": [], "none": []}),
        ({"any": [{"source": ["10.0.0.0/8"]}, {"headers": {"x-b": "1"}}]}, {"any": [], "none": []}),
        (
            {"none": [{"tables": {"clients": {"gpt0": 1}}, "method": "PUT"}, {"headers": {"x-b": "1"}}]},
            {"any": [], "none": [{"headers": ["x-b"]}]},
        ),
        (
            {
                "any": [{"method": "POST", "any": [{"source": ["10.0.0.0/8"]}, {"method": "PUT"}]}],
                "none": [{"method": "PUT", "none": [{"tables": {"clients": {"gpt0": 1}}}]}],
            },
            {"any": [{"method": ["POST"]}], "none": []},
        ),
    ],
)
def test_groups_of_a_job_that_runs_ask_nothing_about_its_client(
    load: Load, tmp_path: Path, groups: dict[str, Any], left: dict[str, Any]
) -> None:
    tables = {"clients": {"key": "${client.address}", "store": ["requests", "gpt0"]}}
    route = {"match": groups, "pool": "a", "jobs": True}
    config = with_jobs(load(configuration(route, tables=tables)), lambda: tmp_path)

    def shown(group: Any) -> dict[str, Any]:
        """What it asks for."""
        given = {name: getattr(group, name) for name in type(group).model_fields if getattr(group, name)}
        return {name: list(value) for name, value in given.items()}

    inner = config.listeners["jobs"].routes[0]
    assert {name: [shown(each) for each in getattr(inner.match, name)] for name in ("any", "none")} == left
    outer = next(r for r in config.listeners["web"].routes if r.name == "web/0/async")
    asked = load(configuration(route, tables=tables)).listeners["web"].routes[0].match
    assert (outer.match.any, outer.match.none) == (asked.any, asked.none), "submissions meet all of them"


def test_an_answer_is_kept_as_the_endpoint_gave_it(load: Load, tmp_path: Path) -> None:
    """A page shown with 200 would end a job that found no room, and a coding is for the client that accepts it."""
    pages = [{"on": ["5xx"], "body": "sorry", "intercept": True, "status": 200}]
    route = {**B, "jobs": True, "compression": True, "error_pages": pages}
    config = with_jobs(load(configuration(route)), lambda: tmp_path)
    runs, direct = config.listeners["jobs"].routes[0], config.listeners["web"].routes[-1]
    assert (runs.compression, runs.error_pages) == (None, [])
    assert direct.compression is not None
    assert len(direct.error_pages) == 1


def test_jobs_are_found_on_the_hosts_of_their_routes(load: Load, tmp_path: Path) -> None:
    routes = ({**A, "jobs": True}, {"match": {"host": "h.example"}, "pool": "a", "jobs": True}, B)
    config = with_jobs(load(configuration(*routes)), lambda: tmp_path)
    found = [(r.match.host, r.match.path.template) for r in config.listeners["web"].routes if r.match.path is not None]
    assert (None, "/jobs/{job}") in found
    assert ("h.example", "/jobs/{job}") in found


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        ("respond-async", True),
        ("Respond-Async", True),
        ("wait=5, respond-async", True),
        ("respond-async; x=1, wait=5", True),
        ("return=minimal", False),
        ("no-respond-async", False),
        ("respond-asynchronously", False),
        ("x=respond-async", False),
    ],
)
def test_the_preference_is_found(line: str, taken: bool) -> None:
    assert (re.search(RESPOND_ASYNC, line) is not None) is taken


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({**configuration({**A, "jobs": True}), "jobs": None}, "routes[0].jobs: needs the section jobs"),
        (configuration({"match": {}, "pool": "g", "jobs": True}), "routes[0].jobs: not for pools of protocol grpc"),
        (configuration({"respond": {"status": 204}, "jobs": True}), "jobs is only for routes with a pool"),
        (configuration({**A, "jobs": True, "match": {"headers": {"Prefer": "x"}}}), "whether a request is to be a job"),
        (configuration(A, jobs={"path": "nowhere/jobs.db"}), "jobs.path"),
        (configuration(A, jobs={"path": "jobs.db", "prefix": "/jobs/"}), "ends with a slash; write it without"),
        (
            configuration(A, jobs={"path": "jobs.db", "webhooks": {"secret_file": "s", "urls": ["https://h"]}}),
            "jobs.webhooks.secret_file",
        ),
        (configuration({**A, "jobs": "yes please"}), "routes[0].jobs"),
    ],
)
def test_mistakes_are_told(load: Load, document: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(document)
    assert words in str(caught.value)


def test_a_split_has_its_parts_of_the_jobs(load: Load, tmp_path: Path) -> None:
    split = {"match": {"path": {"prefix": "/s/"}}, "pools": [{"pool": "a", "weight": 3}, {"pool": "b"}], "jobs": True}
    document = configuration({**A, "jobs": True, "name": "own"}, split, B)
    document["pools"]["b"] = document["pools"]["a"]
    config = with_jobs(load(document), lambda: tmp_path)
    assert shares(config) == {"own": {"a": 1.0}, "web/1": {"a": 0.75, "b": 0.25}}


@pytest.mark.parametrize("section", ["listeners", "pools"])
def test_the_name_jobs_is_taken(load: Load, section: str) -> None:
    document = configuration(A)
    document[section]["jobs"] = next(iter(document[section].values()))
    with pytest.raises(ConfigError, match=f"{section}.jobs: is the name of Tidegate's own"):
        load(document)


def test_another_file_needs_a_restart(load: Load) -> None:
    running, wanted = load(configuration(A)), load(configuration(A, jobs={"path": "other.db", "quota": 5}))
    decision = decide(running, wanted)
    assert decision.config.jobs is not None
    assert running.jobs is not None
    assert decision.config.jobs.path == running.jobs.path
    assert decision.config.jobs.quota == 5
    assert "jobs.path" in decision.notes[0]
