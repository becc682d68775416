"""Reading YAML straight to values, and by way of nodes, comes to the same."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from lb.config import nodes
from lb.config.document import MAX_DEPTH, MAX_NODES, Document, MalformedError, Problem, parse_list
from lb.config.yaml_values import NotPlainError, values

CONFIGS = Path(__file__).parents[2] / "configs"
TEXTS = [path.read_text(errors="replace") for path in sorted(CONFIGS.glob("**/*.yaml"))]
# What may change the meaning of what is around it.
PIECES = [
    "\n", " ", "  ", ":", ": ", "- ", "#", " #", '"', "'", "{", "}", "[", "]", ",", "&a ", "*a", "!!str ", "! ", "|",
    ">", "|-\n", "<<", "<<: ", "~", "null", "", "true", "Off", "0x1f", "1e3", "-.5", "+7", "012", ".", "---\n", "...\n",
    "%", "?", "\t", "é", "\u2028", "a: 1\n", "a: {b: [c, d]}\n", "\\", '"\\x41"', "\ufeff",
]  # fmt: skip
SCALARS = [
    "yes", "no", "on", "NaN", ".inf", "1_000", "0o17", "0b1", "1.5", "9" * 18, "9" * 19, "Null", "TRUE", "2001-01-01",
    "1:30", "=", "a<<", "'<<'", '"<<"',
]  # fmt: skip


def by_nodes(text: str) -> tuple[Any, list[Problem]] | str:
    try:
        built = nodes.Builder(nodes.mapping(text))
    except MalformedError as error:
        return f"{error.line}: {error}"
    return built.data, built.problems


def by_values(text: str) -> tuple[Any, list[Problem]] | str:
    try:
        made = Document(text)
    except MalformedError as error:
        return f"{error.line}: {error}"
    return made.data, made.problems


def list_of(text: str) -> Any:
    try:
        return parse_list(text.encode(), "endpoints").data
    except MalformedError as error:
        return f"{error.line}: {error}"


def test_lists_in_either_form() -> None:
    assert list_of("- a\n- {b: 1}\n") == list_of("endpoints: [a, {b: 1}]\n") == {"endpoints": ["a", {"b": 1}]}
    assert list_of("a") == "1: not a list, nor a mapping with the key endpoints"
    assert list_of("") == "None: empty: a list is needed, [] if nothing is to be in it"


def same(text: str) -> None:
    # By their text, too: 1, 1.0 and True are equal.
    assert repr(by_values(text)) == repr(by_nodes(text)), text


@pytest.mark.parametrize("text", TEXTS)
def test_the_examples(text: str) -> None:
    same(text)


@pytest.mark.parametrize("seed", range(30))
def test_texts_with_pieces_put_in_taken_out_or_moved(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(60):
        text = chance.choice(TEXTS)[: chance.randrange(40, 600)]
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(text) + 1)
            text = text[:at] + chance.choice(PIECES) + text[at + chance.choice((0, 0, 1, 5)) :]
        same(text)


@pytest.mark.parametrize("scalar", [*PIECES, *SCALARS])
def test_scalars_as_values_and_keys(scalar: str) -> None:
    for text in (f"a: {scalar}\n", f"a: [{scalar}]\n", f"{scalar}: 1\n", f"a: {{b: {scalar}}}\n"):
        same(text)


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1, 3 * MAX_DEPTH])
def test_depth(depth: int) -> None:
    same("a: " + "[" * depth + "]" * depth)


@pytest.mark.slow
def test_no_more_values_than_allowed() -> None:
    for count in (MAX_NODES - 2, MAX_NODES - 1):
        text = "a: [" + "1," * count + "]"
        assert isinstance(by_values(text), str) == (count == MAX_NODES - 1)
        same(text)


def test_plain_files_need_no_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(text: str) -> None:
        raise AssertionError("nodes were made")

    monkeypatch.setattr(nodes, "_compose", never)
    for name in ("demo.yaml", "production.yaml", "routing.yaml"):
        assert Document((CONFIGS / name).read_text()).data["listeners"]


@pytest.mark.parametrize(
    "text", ["- a", "a", "", "a: &x 1", "a: *x", "a: !!str 1", "<<: {}", "a: 1\na: 2", "[a]: 1", "a: [", "a: 1\n--- {}"]
)
def test_what_is_not_plain(text: str) -> None:
    with pytest.raises(NotPlainError):
        values(text.encode(), str, 64, 1000)


def test_a_failing_scalar_passes_through() -> None:
    def fails(text: str) -> None:
        raise OSError(text)

    with pytest.raises(OSError, match="7"):
        values(b"a: {b: [7]}", fails, 64, 1000)
