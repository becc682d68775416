"""Environment variables and files in the values of a configuration file: `${NAME}`, `${file:PATH}`, and the same with
`:-default`.

Values are replaced after the file was parsed, so a variable can hold no key, list or line of its own. Whether the text
that comes of it is a number or a truth value is for the key to say that takes it: see `Variables.retyped`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from lb.config.advice.annotations import free_at
from lb.config.advice.variables import value_of_variable
from lb.config.document import Document, Problem, value_at, where
from lb.config.regular_file import read_regular, without_bom
from lb.config.scalars import number_or_truth
from lb.config.values import CLOSE, ELSE, OPEN, has_values, spelled

# Inside of [ ] and { } a plain text ends at one of these; while the file is parsed, those of a variable are others.
_MARKS = "{}[],"
_HIDDEN = "".join(chr(0xF0000 + i) for i in range(len(_MARKS)))
_HIDE = str.maketrans(_MARKS, _HIDDEN)
_SHOW = str.maketrans(_HIDDEN, _MARKS)
_REFERENCE = re.compile(r"(?<=\$)\{[^{}]*\}")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_VALUE = re.compile(r"(?!env\.|ENV\.)[A-Za-z_]+\.[!-~]*", re.ASCII)  # of a request: lb.config.values
_BEGIN = re.compile(r"(\$+)\{")
_QUOTED = re.compile(r"'([^']+)'")
_LEAST = 4  # characters of a value that is looked for in a message
_NESTED = 16  # defaults inside of defaults
_FILE = "file:"
_LARGEST = 64 << 10  # bytes of a file

# Keys of a route whose texts may have values of requests.
_VALUED = frozenset(
    (
        ("request_headers", "set"), ("request_headers", "add"),
        ("response_headers", "set"), ("response_headers", "add"),
        ("redirect", "host"), ("redirect", "path"), ("redirect", "prefix"), ("redirect", "location"),
        ("rewrite", "path"), ("rewrite", "prefix"), ("respond", "body"), ("respond", "headers"),
    )
)  # fmt: skip

_PAGE_TEXTS = (("body",), ("headers",))  # keys of an error page, likewise

# Of another type than the text that a variable gives.
_TYPE_ERRORS = frozenset(
    ("int_type", "float_type", "bool_type", "duration", "size", "workers", "source", "status", "model_type")
)


class MalformedReferenceError(ValueError):
    """A reference that is not well formed, or names a variable that is not set, or a file that cannot be read."""


class Origin(Struct, frozen=True):
    """A value that was made with variables: how the file spells it, what came of it, and what the variables hold."""

    location: tuple[int | str, ...]
    spelling: str
    text: str
    held: tuple[tuple[str, str], ...]  # (reference, value)


def hidden(text: str) -> str:
    """`text` of a file, with references that YAML takes for plain text wherever they stand."""
    if "${" not in text or any(mark in text for mark in _HIDDEN):
        return text
    return re.sub(r"\$\{.*", lambda line: _hidden_line(line[0]), text)


def shown(text: str) -> str:
    """`text` as the file has it, after `hidden`."""
    return text.translate(_SHOW)


def _hidden_line(line: str) -> str:
    """The references in the rest of a line, innermost first: what is hidden of one is plain to those around it."""
    while (changed := _REFERENCE.sub(lambda found: found[0].translate(_HIDE), line)) != line:
        line = changed
    return line


class Sources(Struct, frozen=True):
    """Where the values of references come from."""

    environment: Mapping[str, str]
    folder: Path


class Variables:
    """What of a document came from the environment and from files, whose relative paths start from `folder`. Making one
    replaces the references in `document`, and adds its problems."""

    def __init__(self, document: Document, environment: Mapping[str, str], root: type[BaseModel], folder: Path) -> None:
        self._origins: dict[str, Origin] = {}
        self._root = root
        self._document = document
        self._sources = Sources(environment, folder)
        document.data = self._mapping(document.data, ())

    def __bool__(self) -> bool:
        return bool(self._origins)

    def _mapping(self, value: dict[str, Any], location: tuple[int | str, ...]) -> dict[str, Any]:
        result = {}
        for key, below in value.items():
            if key != (plain := shown(key)):
                line, place = self._document.line(where((*location, key))), where((*location, plain))
                reason = "a key cannot have variables; only values can"
                self._document.problems.append(Problem(line, place, reason))
                continue
            result[key] = self._value(below, (*location, key))
        return result

    def _value(self, value: Any, location: tuple[int | str, ...]) -> Any:
        if isinstance(value, dict):
            return self._mapping(value, location)
        if isinstance(value, list):
            return [self._value(item, (*location, i)) for i, item in enumerate(value)]
        if isinstance(value, str) and "$" in value:
            return self._text(shown(value), location)
        return value

    def _text(self, spelling: str, location: tuple[int | str, ...]) -> Any:
        if "${" not in spelling:
            return spelling
        held: list[tuple[str, str]] = []
        try:
            text = expanded(spelling, self._sources, held)
        except MalformedReferenceError as error:
            path = where(location)
            self._document.problems.append(Problem(self._document.line(path), path, str(error)))
            return spelling
        if has_values(text) and not _takes_values(location):
            path = where(location)
            self._document.problems.append(Problem(self._document.line(path), path, _no_values(text)))
            return spelling
        if not held:
            return text
        self._origins[where(location)] = Origin(location, spelling, text, tuple(held))
        # Options of policies and of plug-ins are checked by themselves, later.
        return number_or_truth(text) if free_at(location, self._root) else text

    def retyped(self, data: dict[str, Any], details: Sequence[ErrorDetails]) -> bool:
        """Whether some of the errors `details` are about texts of variables that read as a number or a truth value;
        `data` has that in their places now."""
        changed = False
        for detail in details:
            location = detail["loc"]
            origin = self._origins.get(where(location))
            if origin is None or detail["type"] not in _TYPE_ERRORS or value_at(data, location) is not origin.text:
                continue
            value = number_or_truth(origin.text)
            if not isinstance(value, str):
                _put(data, location, value)
                changed = True
        return changed

    def told(self, problem: Problem) -> Problem:
        """`problem` without what variables hold, which may be secret: they are named instead."""
        message = problem.message
        for place, origin in self._origins.items():
            if _within(problem.path, place):
                message = _masked(message, origin)
                if not any(name.rstrip("}") in message for name, _ in origin.held):
                    message += f" (the value is that of {origin.spelling})"
            elif _within(place, problem.path):
                message = _masked(message, origin)
        return problem._replace(message=spelled(shown(message)))


def expanded(spelling: str, sources: Sources, held: list[tuple[str, str]], depth: int = 0) -> str:
    """`spelling` with the values of its references, each of which is added to `held`. Of a row of `$` in front of a `{`
    two stand for one. Raises MalformedReferenceError."""
    if depth > _NESTED:
        raise MalformedReferenceError("has more than 16 defaults inside of one another")
    parts: list[str] = []
    at = 0
    while (found := _BEGIN.search(spelling, at)) is not None:
        dollars = len(found[1])
        parts += [spelling[at : found.start()], "$" * (dollars // 2)]
        if dollars % 2 == 0:
            parts.append("{")
            at = found.end()
            continue
        end = _end(spelling, found.end())
        inner = spelling[found.end() : end]
        name, given, default = inner.partition(":-")
        if _VALUE.fullmatch(name):
            otherwise = ELSE + expanded(default, sources, held, depth + 1) if given else ""
            parts += [OPEN, name, otherwise, CLOSE]
            at = end + 1
            continue
        value = _value_of(inner, sources, held, depth)
        held.append(("${" + _divided(inner)[0] + "}", value))
        parts.append(value)
        at = end + 1
    return "".join((*parts, spelling[at:]))


def _takes_values(location: tuple[int | str, ...]) -> bool:
    if location[:1] in (("maps",), ("tables",)):
        return location[2:] == ("key",)
    if location[:1] == ("pools",):
        if location[2:] == ("policy", "key", "text"):
            return True
        return location[2:4] == ("health", "steps") and location[5:] == ("send",)
    if location[:1] != ("listeners",):
        return False
    if location[2:3] == ("error_pages",):
        return location[4:5] in _PAGE_TEXTS
    if location[2:3] != ("routes",):
        return False
    if location[4:5] == ("error_pages",):
        return location[6:7] in _PAGE_TEXTS
    if location[4:] in (("rate_limit", "key", "text"), ("bandwidth", "key", "text"), ("sticky", "text")):
        return True
    return location[4:6] in _VALUED or location[4:5] in (("log_fields",), ("pool_by",))


def _no_values(text: str) -> str:
    """What is wrong with a text that has values of requests where there are none."""
    return (
        f"{spelled(text)!r} has a value of requests, which are known in the routes' request_headers, response_headers, "
        "redirect, rewrite, respond, log_fields and pool_by, in error_pages, in the key of a map or a table and the "
        "text of a key (key: {text: …}); steps of a check have captures"
    )


def _end(text: str, at: int) -> int:
    """Where the reference ends whose inside begins at `at`."""
    depth = 1
    for i in range(at, len(text)):
        if text[i] == "{" and text[i - 1] == "$":
            depth += 1
        elif text[i] == "}":
            depth -= 1
            if depth == 0:
                return i
    raise MalformedReferenceError("a variable ends with }; write ${NAME} or ${NAME:-default}, and $${ for a plain ${")


def _divided(inner: str) -> tuple[str, bool, str]:
    """Of the inside of a reference: its name, whether there is a default, and that. The path of a file may have
    references with defaults of their own."""
    depth = 0
    for i, c in enumerate(inner):
        if c == "{":
            depth += 1
        elif c == "}":
            depth -= 1
        elif depth == 0 and inner.startswith(":-", i):
            return inner[:i], True, inner[i + 2 :]
    return inner, False, ""


def _value_of(inner: str, sources: Sources, held: list[tuple[str, str]], depth: int) -> str:
    name, given, default = _divided(inner)
    if name.startswith(_FILE):
        path = sources.folder / expanded(name.removeprefix(_FILE), sources, held, depth + 1)
        value = _content(path, given)
    elif _NAME.fullmatch(name):
        value = sources.environment.get(name, "")
        if name not in sources.environment and not given:
            meant = value_of_variable(name)
            raise MalformedReferenceError(
                f"the environment variable {name} is not set; set it, or give a default: ${{{name}:-default}}"
                + (f" (as a value of the request write {meant})" if meant else "")
            )
    else:
        raise MalformedReferenceError(_malformed(inner, name))
    if given:
        return value or expanded(default, sources, held, depth + 1)
    return value


def _content(path: Path, optional: bool) -> str:
    """The text in a file, without the end of its last line; "" for none where it is `optional`."""
    try:
        content = read_regular(path, _LARGEST + 1)
    except FileNotFoundError as error:
        if optional:
            return ""
        raise MalformedReferenceError(f"{path}: {error.strerror}") from None
    except OSError as error:
        raise MalformedReferenceError(f"{path}: {error.strerror}") from None
    if len(content) > _LARGEST:
        raise MalformedReferenceError(f"{path} is larger than {_LARGEST} bytes")
    try:
        text = without_bom(content).decode()
    except UnicodeDecodeError:
        raise MalformedReferenceError(f"{path} is no text in UTF-8") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text and not optional:
        raise MalformedReferenceError(f"{path} is empty")
    return text


def _malformed(inner: str, name: str) -> str:
    """What is wrong with the inside of a reference. Its default, which may be secret, is not repeated."""
    found = _NAME.match(name)
    advice = "write ${NAME} or ${NAME:-default}, and $${ for a plain ${"
    if found is not None and found.end() < len(name) and name[found.end()] in "-:=?+":
        mark = name[found.end() : found.end() + 2] if name[found.end()] == ":" else name[found.end()]
        known = found[0]
        if known in ("env", "ENV", "environment") and mark[0] == ":":
            rest = _NAME.match(name, found.end() + 1)
            known = rest[0] if rest else "NAME"
            return f"variables have no source such as env: here; write ${{{known}}} or ${{{known}:-default}}"
        return f"{mark!r} means nothing in a variable; write ${{{known}}} or ${{{known}:-default}}"
    if name.startswith(("env.", "ENV.")) and _NAME.fullmatch(name[4:]):
        return f"variables have no source such as env. here; write ${{{name[4:]}}}"
    return f"{name[:64]!r} is not the name of a variable; {advice}"


def _put(data: Any, location: tuple[int | str, ...], value: Any) -> None:
    for part in location[:-1]:
        data = data[part]
    data[location[-1]] = value


def _within(path: str, around: str) -> bool:
    return path == around or path.startswith((f"{around}.", f"{around}[")) or not around


def _masked(message: str, origin: Origin) -> str:
    """`message` with the spelling of `origin` in place of its text, and of the parts of that which are quoted."""
    put: list[str] = []

    def mark(spelling: str) -> str:
        """What stands for `spelling` until all is replaced, so that nothing is replaced in it."""
        put.append(spelling)
        return f"\0{len(put) - 1}\0"

    def part(found: re.Match[str]) -> str:
        given = found[1].casefold()
        if given not in origin.text.casefold():
            return found[0]
        whose = [name for name, value in origin.held if given in value.casefold()]
        holds = any(value and value.casefold() in given for _, value in origin.held)
        return f"'{mark(whose[0] if len(whose) == 1 else origin.spelling)}'" if whose or holds else found[0]

    for text in {origin.text, repr(origin.text)[1:-1]}:
        if len(text) >= _LEAST:
            message = message.replace(text, mark(origin.spelling))
    message = _QUOTED.sub(part, message)
    for name, value in origin.held:
        if len(value) >= _LEAST:
            message = message.replace(value, mark(name))
    message = re.sub("\0([0-9]+)\0", lambda found: put[int(found[1])], message)
    return _without_parts(message, origin)


def _without_parts(message: str, origin: Origin) -> str:
    """`message` without its advice, where that is made of parts of what is held: a list of the words of a secret."""
    said, mark, advice = message.partition("; write ")
    held = {word for _, value in origin.held for word in _words(value)} - _words(origin.spelling)
    return said if mark and held & _words(advice) else message


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", text.casefold()))
