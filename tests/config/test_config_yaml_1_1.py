"""A file that a reader of YAML 1.1 has written means what the file that it read does: there `on` is `true`, and `off`
is `false`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lb.config.load import load
from lb.config.reference.page import SCHEMA
from lb.config.schema.base import Model
from lb.config.schema.file import Config
from lb.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
# Every place of the file that takes `off`, and both keys `on`.
WORDS = """\
listeners:
  web:
    bind: 127.0.0.1:8080
    protocol: http
    forwarded: off
    tcp_keepalive: off
    error_pages: [{on: [404], body: gone}]
    routes:
      - name: first
        match: {path: {prefix: /first/}}
        pool: models
        retry: {attempts: 2, on: [connect, 5xx]}
        hedge: off
        rate_limit: {rate: 10/s, fields: off}
        response_rewrite: {location: off, cookie_flags: {sid: {same_site: off}}}
      - {pool: models, retry: off}
pools:
  models:
    protocol: http
    endpoints: ["127.0.0.1:9001"]
    outlier: off
    tcp_keepalive: off
    health: {type: tcp, send_proxy: off}
  raw: {protocol: tcp, endpoints: ["127.0.0.1:9002"], send_proxy: off}
  raws: {protocol: tcp, endpoints: ["127.0.0.1:9002"], send_proxy: {version: off}}
  engine:
    protocol: http
    discover: {dns: {name: chat.example.org, port: 8000}}
    engine: {lease: off, kubernetes: {target: deployment/chat}}
quotas:
  daily: {key: {header: x-user}, requests: 10, per: day, fields: off}
"""


def loaded(folder: Path, text: str) -> Config:
    path = folder / "tidegate.yaml"
    path.write_text(text)
    return load(path, files=False)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        loaded(folder, text)
    return [line.removeprefix(f"{folder}/") for line in refused.value.problems]


def by_pyyaml(text: str) -> str:
    return yaml.safe_dump(yaml.safe_load(text))


def by_json(text: str) -> str:
    """As Helm reads values: through JSON, whose keys are text."""
    return json.dumps(yaml.safe_load(text))


def by_jinja(text: str) -> str:
    """As a template of Ansible gives values on: Python's words."""
    return by_pyyaml(text).replace("true", "True").replace("false", "False")


def in_quotes(text: str) -> str:
    """As `helm --set-string` and variables give them on."""
    return by_pyyaml(text).replace("true:", '"true":').replace(": false", ': "false"')


@pytest.mark.parametrize("written", [by_pyyaml, by_json, by_jinja, in_quotes])
def test_every_word_of_a_file(written: Any, tmp_path: Path) -> None:
    text = written(WORDS)
    assert not re.search(r"\b(on|off)\b", text)
    assert loaded(tmp_path, text) == loaded(tmp_path, WORDS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
@pytest.mark.parametrize("written", [by_pyyaml, by_json])
def test_the_examples(path: Path, written: Any, tmp_path: Path) -> None:
    text = path.read_text()
    assert loaded(tmp_path, written(text)) == loaded(tmp_path, text)


def places_of_off(node: Any, path: str = "") -> Iterator[tuple[str, list[Any]]]:
    if isinstance(node, dict):
        if "off" in node.get("enum", ()):
            yield path, node["enum"]
        assert node.get("const") != "off", path
        for key, value in node.items():
            yield from places_of_off(value, f"{path}/{key}")
    elif isinstance(node, list):
        for item in node:
            yield from places_of_off(item, path)


def test_the_schema_takes_false_wherever_it_takes_off() -> None:
    found = list(places_of_off(json.loads(SCHEMA.read_text())))
    assert len({path for path, _ in found}) == WORDS.count(": off")
    assert all(False in words for _, words in found)


def test_a_mistake_has_its_line(tmp_path: Path) -> None:
    text = WORDS.replace("on: [connect, 5xx]", "true: [connect, 5xy]")
    (problem,) = problems(tmp_path, text)
    assert problem.startswith("tidegate.yaml:12: listeners.web.routes[0].retry.true[1]: '5xy' is not one of ")


def test_a_key_twice_stays_a_mistake(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, WORDS.replace("attempts: 2, on", "true: [reset], on"))
    assert problem.startswith("tidegate.yaml:12: listeners.web.routes[0].retry.true: unknown key")


def test_truth_values_stay_what_they_are(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, WORDS.replace("hedge: off", "hedge: true"))
    assert problem.startswith("tidegate.yaml:13: listeners.web.routes[0].hedge: must be a mapping")
    config = loaded(tmp_path, WORDS.replace("hedge: off", "idempotent: false"))
    assert config.listeners["web"].routes[0].idempotent is False


def test_names_are_left_alone(tmp_path: Path) -> None:
    text = WORDS.replace("{pool: models, retry: off}", "{pool: 'true', retry: off}").replace("\n  raw:", "\n  'true':")
    assert "true" in loaded(tmp_path, text.replace("'true', retry", "models, retry")).pools


def test_a_section_of_a_plug_in() -> None:
    class Section(Model):
        on: list[int]
        mode: bool | str = "x"

    assert Section.model_validate({"True": [1], "mode": False}) == Section(on=[1], mode=False)
