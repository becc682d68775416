"""YAML to values with lines."""

import textwrap

import pytest

from lb.config.document import MAX_BYTES, Document, MalformedError, parse


def read(text: str) -> Document:
    return parse(textwrap.dedent(text).encode())


def test_values_follow_yaml_1_2() -> None:
    document = read(
        """\
        a: [off, on, yes, no, y, n]
        b: [true, False, null, ~]
        c: [010, 0x1F, 0o17, -5, 1_000, 10:30, 2001-01-01]
        d: [1.5, -0.5e3, 1., .5, .inf, .nan]
        e: ["1", '', "\\u00e9", <<]
        f: |
          block
        """
    )
    assert document.data == {
        "a": ["off", "on", "yes", "no", "y", "n"],
        "b": [True, False, None, None],
        "c": [10, 31, 15, -5, "1_000", "10:30", "2001-01-01"],
        "d": [1.5, -500.0, 1.0, 0.5, ".inf", ".nan"],
        "e": ["1", "", "\u00e9", "<<"],
        "f": "block\n",
    }
    assert document.problems == []


def test_lines_of_keys_and_items() -> None:
    document = read(
        """\
        a:
          b: 1
          c:
            - x

            - {d: 2,
               e: 3}
        """
    )
    assert document.lines == {
        "": 1, "a": 1, "a.b": 2, "a.c": 3, "a.c[0]": 4, "a.c[1]": 6, "a.c[1].d": 6, "a.c[1].e": 7,
    }  # fmt: skip
    assert document.line("a.c[1].e.deeper[3].still") == 7
    assert document.line("a.c[7].x") == 3
    assert document.known("nothing.here") == ""
    for strange in ("a[b]", "a[", "a.b[x].y", "[[1]]", ".", "]"):
        assert document.known(strange) in document.lines


def test_merge_keys() -> None:
    document = read(
        """\
        base: &base {x: 1, y: 2}
        more: &more {y: 3, z: 4}
        one:
          <<: *base
          x: 9
        all:
          <<: [*base, *more]
        """
    )
    assert document.data["one"] == {"x": 9, "y": 2}
    assert document.data["all"] == {"x": 1, "y": 2, "z": 4}
    assert document.lines["one.x"] == 5
    assert document.lines["one.y"] == 1


def test_every_mistake_of_form_at_once() -> None:
    document = read(
        """\
        a: 1
        b: {c: 1, c: 2}
        a: 2
        d:
        e: !!int many
        f: !custom x
        ? [complex]
        : 1
        g: {<<: 3}
        """
    )
    assert [(p.line, p.path) for p in document.problems] == [
        (3, "a"), (7, ""), (2, "b.c"), (4, "d"), (5, "e"), (6, "f"), (9, "g"),
    ]  # fmt: skip
    assert document.data["a"] == 1


@pytest.mark.parametrize(
    ("raw", "message", "line"),
    [
        (b"", "empty", None),
        (b"# only a comment\n", "empty", None),
        (b"null\n", "empty", None),
        (b"\n\ntext\n", "not a mapping", 3),
        (b"- 1\n", "not a mapping", 1),
        (b"a: 1\nb: \xff\n", "not UTF-8 text: byte 0xff", 2),
        ("a: 1\n".encode("utf-16"), "not UTF-8", 1),
        (b"a: 1\nb: \x07\n", "character #x0007", 2),
        (b"a: \x00\n", "character #x0000", 1),
        (b"a: [1\n", "did not find expected", 2),
        (b"a: 1\n---\nb: 1\n", "another document", 2),
        (b"a: *b\n", "undefined alias", 1),
        (b"a: &a [*a]\n", "nested more than 64", 1),
        (b"a: &a {<<: *a}\n", "nested more than 64", 1),
        (b"a: " + b"[" * 100 + b"]" * 100 + b"\n", "nested more than 64", 1),
        (b"a: " + b"[" * 100_000, "maximum nesting depth", 1),
        (b"a: '" + b"x" * MAX_BYTES + b"'\n", "larger than 4MiB", None),
    ],
)
def test_not_a_document(raw: bytes, message: str, line: int | None) -> None:
    with pytest.raises(MalformedError, match=message) as caught:
        parse(raw)
    assert caught.value.line == line


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["list", "merge"])
def test_aliases_cannot_blow_up(kind: str) -> None:
    lines = ["a0: &a0 {x: 1}"]
    for i in range(1, 40):
        twice = f"[*a{i - 1}, *a{i - 1}]"
        lines.append(f"a{i}: &a{i} {twice}" if kind == "list" else f"a{i}: &a{i} {{<<: {twice}}}")
    with pytest.raises(MalformedError, match="aliases included"):
        parse("\n".join(lines).encode())


def test_byte_order_mark_is_skipped() -> None:
    assert parse(b"\xef\xbb\xbfa: 1\n").data == {"a": 1}
