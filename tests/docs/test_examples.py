"""Every fenced example of the documentation: a configuration or a part of one is valid, a command line of `tidegate` is
one that it takes, a target of `make` is there.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
import yaml

from lb.cli.app import command_parser
from lb.config.document import MalformedError, parse
from lb.config.environment import hidden, shown
from lb.config.load import load
from lb.config.reference.page import SCHEMA

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs" / "howto").glob("*.md"),
    ]
)
_FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_SCHEMA: dict[str, Any] = json.loads(SCHEMA.read_text())


def _open(node: Any) -> Any:
    """The schema `node` for parts of sections: no key is required, so more than one form may fit; unknown keys are
    refused as ever."""
    if isinstance(node, list):
        return [_open(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: value for key, value in node.items() if key != "required" or not isinstance(value, list)}
    return {"anyOf" if key == "oneOf" else key: _open(value) for key, value in kept.items()}


_WHOLE = jsonschema.Draft202012Validator(_open(_SCHEMA))
_PARTS = [
    jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": _open(_SCHEMA["$defs"])})
    for name, part in _SCHEMA["$defs"].items()
    if part.get("additionalProperties") is False  # with others any mistake would be an option of a plug-in
]
# The first key of what is not for Tidegate: Kubernetes, KEDA, Prometheus, the chart.
_FOREIGN = {"apiVersion", "triggers", "rule_files", "scrape_configs", "metrics", "replicas"}
# Parts of sections on these pages: of models in tests/backend, and of the reference in tests/config.
_TESTED = ("model-repository.md", "configuration.md")


class Block(NamedTuple):
    page: Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*kinds: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for fence in _FENCE.finditer(text):
            if fence[2] in kinds:
                indent = len(fence[1])
                body = "".join(line[indent:] if line.strip() else line for line in fence[3].splitlines(keepends=True))
                found.append(Block(page, text.count("\n", 0, fence.start()) + 1, fence[2], body))
    return found


def whole(text: str) -> str:
    """`text` without the ellipses that stand for what is left out."""
    return re.sub(r"^\s*…\s*$|, …(?=[}\]])", "", text, flags=re.MULTILINE)


def read(text: str) -> Any:
    """What a block holds: a mapping by Tidegate's own parser, or a list."""
    try:
        data = parse(whole(text).encode(), hidden).data
        return json.loads(shown(json.dumps(data, ensure_ascii=False)))  # with references as they stand in the file
    except MalformedError:
        data = yaml.safe_load(text)
        if not isinstance(data, list):
            raise
        return data


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_a_configuration(block: Block, tmp_path: Path) -> None:
    data = read(block.text)
    if isinstance(data, list):
        assert all(isinstance(one, str) or any(part.is_valid(one) for part in _PARTS) for one in data), data
    elif {"listeners", "pools"} <= data.keys():
        path = tmp_path / "tidegate.yaml"
        path.write_text(whole(block.text))
        load(path, files=False)
    elif data.keys() <= _SCHEMA["properties"].keys():
        assert [error.message for error in _WHOLE.iter_errors(data)] == []
    elif next(iter(data)) not in _FOREIGN and block.page.name not in _TESTED:
        assert any(part.is_valid(data) for part in _PARTS) or _WHOLE.is_valid({"pools": data}), data


def as_read(data: Any) -> Any:
    """`data` with what a reader of YAML 1.1 makes of it and hands on as text: its keys, truth values and dates."""
    if isinstance(data, dict):
        return {{"on": "True"}.get(key, str(key)): as_read(value) for key, value in data.items()}
    if isinstance(data, list):
        return [as_read(item) for item in data]
    return str({"off": False}.get(data, data))


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_a_reader_of_yaml_1_1_sees_the_same(block: Block) -> None:
    text = whole(block.text)
    data = yaml.safe_load(text)
    if isinstance(data, dict) and not (document := parse(text.encode())).problems:  # alternatives have a key twice
        assert as_read(data) == as_read(document.data)


def commands(block: Block) -> Iterator[str]:
    """Command lines, without prompts, comments and what is printed."""
    text = block.text.replace("\\\n", " ")
    for line in text.splitlines():
        if block.kind == "console":
            if not line.startswith(("$ ", "# ")):
                continue
            line = line[2:]
        for part in re.split(r"\s(?:&&|\|\|?)\s|;\s|\s&(?:\s|$)", re.sub(r"\s2?>>?\s*\S+", "", line)):
            yield part.strip()


@pytest.mark.parametrize("block", blocks("sh", "console"), ids=str)
def test_command_lines(block: Block) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in commands(block):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue  # a quotation over several lines
        while words and "=" in words[0] and not words[0].startswith("-"):
            words = words[1:]
        if not words:
            continue
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word and not word.startswith("-")} <= targets, line
        elif words[0].rpartition("/")[2] == "tidegate" and "…" not in line and "[" not in line:
            parsed(words[1:], line)


def parsed(words: list[str], line: str) -> None:
    said = io.StringIO()
    status: object = 0
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            command_parser().parse_args(words)
        except SystemExit as ended:
            status = ended.code
    assert status == 0, f"{line}\n{said.getvalue()}"


def test_mistakes_would_be_seen() -> None:
    assert not _WHOLE.is_valid({"pools": {"p": {"polcy": "random"}}})
    assert not any(part.is_valid({"slowstart": "30s"}) for part in _PARTS)
    with pytest.raises(AssertionError):
        parsed(["drian", "pool", "endpoint"], "tidegate drian pool endpoint")
    with pytest.raises(AssertionError):
        parsed(["status", "--jsno"], "tidegate status --jsno")
