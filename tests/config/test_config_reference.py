"""The reference page and the JSON Schema are current and true."""

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from lb.config.advice.annotations import item_of, model_of
from lb.config.document import parse
from lb.config.reference import page as reference
from lb.config.reference.docstrings import docstrings
from lb.config.reference.examples import EXAMPLES
from lb.config.schema.file import Config
from lb.config.units import FileContext

CONFIGS = Path(__file__).parents[2] / "configs"
SCHEMA = json.loads(reference.SCHEMA.read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)  # `jsonschema.validate` would check the schema again each time


def models(model: type[BaseModel] = Config) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        below = model_of(field.annotation) or model_of(item_of(field.annotation))
        if below is not None:
            yield from models(below)


def test_files_are_current() -> None:
    assert reference.PAGE.read_text() == reference.page_text()
    assert reference.SCHEMA.read_text() == reference.schema_text()
    assert reference.main(["--check"]) == 0


def test_stale_files_are_reported_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    monkeypatch.setattr(reference, "SCHEMA", tmp_path / "schema.json")
    monkeypatch.setattr(reference, "PAGE", tmp_path / "docs" / "configuration.md")
    assert reference.main(["--check"]) == 1
    assert "schema.json is not current" in capsys.readouterr().err
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0


@pytest.mark.parametrize("model", sorted(set(models()), key=lambda m: m.__name__), ids=lambda m: m.__name__)
def test_every_model_and_field_is_described(model: type[BaseModel]) -> None:
    assert model.__doc__
    for name, field in model.model_fields.items():
        assert docstrings(model)[name]
        assert f"| `{field.alias or name}` |" in reference.PAGE.read_text()


@pytest.mark.parametrize("model", EXAMPLES, ids=lambda m: m.__name__)
def test_examples_of_the_page_are_valid(model: type[BaseModel]) -> None:
    document = parse(EXAMPLES[model].encode())
    assert document.problems == []
    model.model_validate(document.data, context=FileContext(Path("/")))


def test_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_schema_takes_the_examples(path: Path) -> None:
    VALIDATOR.validate(parse(path.read_bytes()).data)


@pytest.mark.parametrize(
    "name",
    [
        "unknown-key",
        "missing-key",
        "duration-without-unit",
        "unknown-unit",
        "size-in-decimal-units",
        "number-in-quotes",
        "yes-is-not-true",
        "log-level",
        "bad-name",
        "tls-version",
        "two-path-matches",
        "relative-path-match",
        "endpoints-and-serve",
        "negative-weight",
        "health-type",
        "provider",
    ],
)
def test_schema_refuses_what_it_can_see(name: str) -> None:
    data = yaml.load((CONFIGS / "invalid" / f"{name}.yaml").read_text(), Loader=yaml.CSafeLoader)
    if name == "yes-is-not-true":  # YAML 1.1 reads true
        data["listeners"]["web"]["routes"][0]["cache"] = "yes"
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(data)


def test_schema_spells_defaults_as_files_do() -> None:
    listener = SCHEMA["$defs"]["ListenerConfig"]["properties"]
    assert listener["header_timeout"]["default"] == "10s"
    assert listener["max_header_bytes"]["default"] == "16KiB"
