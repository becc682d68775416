"""What all configuration models share: the closed base model and the checked scalar types."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationInfo,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from lb.config.address import parse_bind, parse_bind_range, parse_target
from lb.config.advice.literal import expression, host_advice, instead_of_pattern, name_advice, path_advice, regex_advice
from lb.config.schema.truths import repaired
from lb.config.units import FileContext

# Else the first model has pydantic read the metadata of every installed package, in search of plug-ins that would look
# over the validation of configurations.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

_HOST_PATTERN = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\]", re.ASCII)


class Model(BaseModel):
    """Base of every section: closed (an unknown key is an error), immutable, documented by its attributes'
    docstrings."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[BaseModel], handler: GetCoreSchemaHandler) -> CoreSchema:
        """As pydantic has it; a section with words of YAML 1.1 gets them back first."""
        schema = handler(source)
        if (repair := repaired(cls)) is not None:
            of_model: Any = handler.resolve_ref_schema(schema)
            while of_model["type"] != "model":
                of_model = of_model["schema"]
            of_model["schema"] = core_schema.no_info_before_validator_function(repair, of_model["schema"])
        return schema


def plain(word: str) -> str:
    """`word` without what spellings of one name differ in."""
    return re.sub(r"[^a-z0-9]", "", word.lower())


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `word` is most likely a slip of: the same but for case and dashes, or one or two letters
    away. None when none is so near; words that differ in a number mean different things."""
    best: tuple[int, str] | None = None
    for other in sorted(known):
        if plain(other) == plain(word):
            return other
        least = min(len(word), len(other))
        most = 0 if max(len(word), len(other)) < 3 else 1 if least < 8 else 2
        if abs(len(word) - len(other)) > most or not _same_number(word, other):
            continue
        far = _distance(word.lower(), other.lower())
        if far <= most and (best is None or far < best[0]):
            best = (far, other)
    return best[1] if best is not None else None


def _same_number(word: str, other: str) -> bool:
    digits = re.sub(r"[^0-9]", "", other)
    return not digits or digits == re.sub(r"[^0-9]", "", word)


def _distance(a: str, b: str) -> int:
    """Letters to insert, remove, replace or swap with their neighbour (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i in range(1, len(a) + 1):
        last, row = row, [i]
        for j in range(1, len(b) + 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1]))
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before = last
    return row[-1]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the most similar of `known`, or nothing when none is similar."""
    near = nearest(word, known)
    return f"; did you mean {near}?" if near else ""


def listed(names: Iterable[str], most: int = 10) -> str:
    """The names with commas between, `none` without any; of more than `most` the first and how many more there are."""
    known = list(names)
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return f"{', '.join(known[:most]) or 'none'}{more}"


def problem(kind: str, message: str) -> PydanticCustomError:
    """An error whose text reaches the operator as it is."""
    return PydanticCustomError(kind, "{reason}", {"reason": message})


def only_one(model: BaseModel, names: tuple[str, ...]) -> None:
    """Raise unless exactly one of the fields `names` is set to something other than its default."""
    explicit = model.model_fields_set
    given = [name for name in names if name in explicit and getattr(model, name) != _default(type(model), name)]
    if len(given) != 1:
        what = f"not {' and '.join(given)} together" if given else "none is given"
        raise problem("only_one", f"exactly one of {', '.join(names)} is needed; {what}")


def only_for(model: BaseModel, path: str, names: tuple[str, ...], message: str) -> Iterator[tuple[str, str]]:
    """(path, `message`) for each field of `names` that the file gives a value other than the default."""
    for name in names:
        if name in model.model_fields_set and getattr(model, name) != type(model).model_fields[name].default:
            yield f"{path}.{name}", message


@cache
def _default(kind: type[BaseModel], name: str) -> Any:
    return kind.model_fields[name].get_default(call_default_factory=True, validated_data={})


def refuse(values: tuple[str, ...]) -> BeforeValidator:
    """A validator that names what is planned but not there, so that it does not read as a typing mistake."""

    def check(value: Any) -> Any:
        if value in values:
            raise problem("unsupported", f"{value!r} is not supported yet")
        return value

    return BeforeValidator(check)


def text(pattern: str, message: str) -> tuple[AfterValidator, Any]:
    """A validator for text of this form, whose error is `VALUE MESSAGE`, and the pattern for the JSON Schema."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value, re.ASCII):  # compiled at its first use: a file uses few of the forms
            raise problem("text", f"{value!r} {message}")
        return value

    return AfterValidator(check), Field(json_schema_extra={"pattern": f"^(?:{pattern})$"})


def _checked(parse: Callable[[str], object]) -> AfterValidator:
    def check(value: str) -> str:
        try:
            return str(parse(value))
        except ValueError as error:
            raise problem("address", str(error)) from None

    return AfterValidator(check)


def _path(value: Path, info: ValidationInfo) -> Path:
    if "\0" in str(value):
        raise problem("path", "must be a path")
    return info.context.base / value if isinstance(info.context, FileContext) else value


def _regex(value: str) -> str:
    # Whether RE2 takes the pattern is for a check of a layer above to say (lb.proxy.routing.checks): RE2 is compiled
    # code.
    if not value or not value.isascii() or not value.isprintable() or len(value) > 4096:
        raise problem("regex", "not a regular expression: 1 to 4096 printable ASCII characters are")
    if said := regex_advice(value):
        raise problem("regex", f"{value!r} {said}")
    return value


def _host_pattern(regex: bool) -> AfterValidator:
    """`regex`: whether host_regex can stand there instead."""

    def check(value: str) -> str:
        if advice := host_advice(value, regex):
            raise problem("host", f"{value!r} {advice}")
        if not _HOST_PATTERN.fullmatch(value):
            raise problem("host", f"{value!r} is not a host; write example.org or *.example.org, without a port")
        return value.lower()

    return AfterValidator(check)


def advised(advice: Callable[[str], str]) -> AfterValidator:
    """A validator for text about which `advice` says nothing; its error is `VALUE ADVICE`."""

    def check(value: str) -> str:
        if said := advice(value):
            raise problem("text", f"{value!r} {said}")
        return value

    return AfterValidator(check)


def _begins(value: Any) -> Any:
    """Says which path is meant by what is nearly one."""
    if isinstance(value, str) and not value.startswith("/"):
        found = _PATH_IN.fullmatch(value)
        if found is not None:
            meant = found[1] or f"/{found[2]}"
            raise problem("text", f"{value!r} is not a path: it begins with / and has no spaces; write {meant}")
    return value


def _no_expression(value: Any) -> Any:
    if not isinstance(value, str) or value.startswith("/") or "'" in value:
        return value
    if value[:1] in ("~", "^"):
        regex = value.lstrip("~* ")
        raise problem("text", f"{value!r} is an expression; write path: {{regex: '{regex}'}}")
    if value.startswith("*") and value.strip("*"):
        raise problem(
            "text", f"{value!r} is a pattern; write path: {{regex: '{expression(value.lstrip('*'), '.*')}$'}}"
        )
    if form := instead_of_pattern(f"/{value}"):
        raise problem("text", f"{value!r} is a pattern; write path: {form}")
    return value


Name = Annotated[
    str,
    *text(
        r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}",
        "is not a name: letters, digits, '_', '.' and '-', at most 63, with a letter or digit first",
    ),
]
"""Name of a listener, pool or route; it appears in metrics, logs and addresses of the admin API."""

Zone = Annotated[
    str, *text(r"[!-~]{1,64}", "is not the name of a zone: 1 to 64 printable ASCII characters without spaces")
]
"""Where something is: a data centre, an availability zone, a rack."""

Integer = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]
Boolean = Annotated[bool, Field(strict=True)]


def _whole_address(any_host: str) -> BeforeValidator:
    """A validator that says what to write for what is no address, but near enough to one to know which is meant;
    `any_host` is the host of a port alone."""

    def check(value: Any) -> Any:
        text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
        meant = ""
        if _PORT.fullmatch(text) and 0 < int(text) < 65536:
            meant = f"is a port alone; write {any_host}:{text}"
            if any_host == "0.0.0.0":  # noqa: S104
                meant += f", or 127.0.0.1:{text} for this machine only"
        elif text.startswith("/"):
            meant = f"is a path; write unix:{text} for a Unix socket"
        elif "," in text and all(_ADDRESS.fullmatch(part.strip()) for part in text.split(",")):
            meant = "is more than one address; write each by itself"
        elif (found := _URL.fullmatch(text)) is not None:
            port = found[3] or {"http": "80", "https": "443"}.get(found[1], "")
            secure = " and tls: {} in the pool" if found[1] in _SECURE and any_host != "0.0.0.0" else ""  # noqa: S104
            meant = f"is a URL; write {found[2]}:{port}{secure}, without scheme and path" if port else ""
        elif (found := _WITH_OPTIONS.fullmatch(text)) is not None and any_host != "0.0.0.0":  # noqa: S104
            meant = f'has options behind the address; write {{address: "{found[1]}"{_options(found[2])}}}'
        if meant:
            raise problem("address", f"{value!r} {meant}")
        return value

    return BeforeValidator(check)


_PATH_IN = re.compile(r"(?:https?://[^/\s]+|[A-Z]+ +)(/[!-~]*)(?: HTTP/[0-9.]+)?|([A-Za-z0-9_-][!-~]*)", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(?:/.*)?", re.ASCII)
_SECURE = ("https", "grpcs", "h2", "wss", "tls", "ssl")
_ADDRESS = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}", re.ASCII)
_WITH_OPTIONS = re.compile(r"(\S+:[0-9]{1,5})\s+(\S.*)", re.ASCII)
_OPTIONS = (
    (r"w(?:eight)?[=: ]+([0-9]{1,3})\b", "weight: {}"),
    (r"max_?conns?[=: ]+([1-9][0-9]{0,5})\b", "max_in_flight: {}"),
    (r"backup\b()", "priority: 1"),
    (r"(?:down|disabled)\b()", "weight: 0"),
)


def _options(text: str) -> str:
    """The options of a server of NGINX or HAProxy as keys of an endpoint; others have their place in the pool."""
    keys = [key.format(found[1]) for option, key in _OPTIONS if (found := re.search(rf"\b{option}", text)) is not None]
    weights = [key for key in keys if key.startswith("weight")]
    keys = [key for key in keys if key not in weights[:-1]]
    return "".join(f", {key}" for key in keys)


Bind = Annotated[str, _whole_address("0.0.0.0"), _checked(parse_bind)]  # noqa: S104
"""Address to listen on, in canonical form."""

BindRange = Annotated[str, _whole_address("0.0.0.0"), _checked(parse_bind_range)]  # noqa: S104
"""The same, whose port may be a range."""

Address = Annotated[str, _whole_address("127.0.0.1"), _checked(parse_target)]
"""Address to connect to, in canonical form; the host may be a name."""

FilePath = Annotated[Path, AfterValidator(_path)]
"""A path; a relative one starts from the folder of the configuration file."""

Regex = Annotated[str, AfterValidator(_regex)]
Octets = Annotated[
    str,
    *text(r"[\x00-\xff]{0,1200}", "is not made of bytes: characters up to \\xff, at most 1200"),
]
"""Bytes, each spelled as the character of its number."""

OctetsRegex = Annotated[
    str,
    *text(r"[\x00-\xff]{0,4096}", "is not made of bytes: characters up to \\xff, at most 4096"),
]
"""A regular expression over bytes, spelled like Octets. RE2 judges it as it does a Regex."""

HostPattern = Annotated[str, _host_pattern(True)]
"""Host of requests."""

ServerPattern = Annotated[str, _host_pattern(False)]
"""Name of a server in TLS."""

AskedPath = Annotated[
    str,
    BeforeValidator(_begins),
    *text(r"/[!-~]{0,4095}", "is not a path: it begins with / and has no spaces"),
]
"""A path that is asked for, with its query."""

HttpPath = Annotated[AskedPath, BeforeValidator(_no_expression), advised(path_advice)]
"""A path that requests' are compared with, byte for byte."""

Token = Annotated[
    str, *text(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}", "is not a token: letters, digits and !#$%&'*+-.^_`|~ only")
]
"""A token of RFC 9110 5.6.2: a method, or the name of a header or cookie."""

FieldName = Annotated[Token, advised(name_advice)]
"""The name of a header or cookie."""
