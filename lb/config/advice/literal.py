"""Texts that mean more elsewhere and only themselves here: wildcards, names of segments, expressions, variables. Each
function gives what is wrong with a text and what to write, for the end of a message, or "" where it is well."""

from __future__ import annotations

import re

_SEGMENT = re.compile(
    r":([A-Za-z_][A-Za-z0-9_]*)|<(?:[a-z]+:)?([A-Za-z_][A-Za-z0-9_]*)>|\{([A-Za-z_][A-Za-z0-9_]*).*\}"
)
_OPEN_END = re.compile(r"(/(?:[^*(){}\[\]|^\\<$]*[^*(){}\[\]|^\\<$.])?)(?:\*{1,2}|\.[*+]|\(\.[*+]\))\$?", re.ASCII)
_EXPRESSION = re.compile(r"\[[^\]/]+\]|\\[dDwWsSbB.]|[\^|]|\)[*+?]|\.[*+]|(?<=.)\$$", re.ASCII)
# Most paths have none of these: of thousands of routes each is looked at.
_UNUSUAL = re.compile(r"[*{}<\[\]\\^|?#$]|/:|\)[+?]|\.\+")
_EVERY = frozenset(("*", "*.*", "_", "*:*", "**"))
_HOST = re.compile(r"(?:\*\.)?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\]", re.ASCII)
_AROUND_HOST = re.compile(r"(?:[a-z][a-z0-9+.-]*://)?([^/:\s]+|\[[^\]]+\])(?::[0-9*]+)?\.?(?:/\S*)?", re.ASCII)
_MANY = re.compile(r"[\s,|]+")


def path_advice(text: str) -> str:
    """About the path of a route, which is compared byte for byte."""
    if _UNUSUAL.search(text) is None:
        return ""
    bare = re.split(r"[?#]", text)[0]
    if bare != text and not _EXPRESSION.search(text):
        pairs = re.findall(r"([^?&=#]+)=([^&#]*)", text[len(bare) :])
        query = f" and query: {{{', '.join(f'{k}: {quoted(v)}' for k, v in pairs)}}} beside it" if pairs else ""
        return f"has more than a path; write {bare}{query}"
    if (form := instead_of_pattern(text)) == "":
        return ""
    return f"is compared letter by letter, no pattern; write path: {form} (or a regex, where a path has these letters)"


def instead_of_pattern(text: str) -> str:
    """The mapping of `path` that a pattern of other load balancers means; "" where `text` is none."""
    if not text.startswith(("/", "^", "~")):
        return ""
    if (found := _OPEN_END.fullmatch(text)) is not None:
        return f"{{prefix: {found[1]}}}"
    parts = text.split("/")
    named = [_named(part, i, i == len(parts) - 1) for i, part in enumerate(parts)]
    # A segment in braces is one of a template already.
    if any(_SEGMENT.fullmatch(part) or part in ("*", "**") for part in parts) and not any(
        re.search(r"[*<\[]", name) for name in named
    ):
        return f'{{template: "{"/".join(named)}"}}'
    if "*" in text and not _EXPRESSION.search(text):
        return f"{{regex: '^{expression(text, '[^/]*')}$'}}"
    if _EXPRESSION.search(text):
        bare = text.lstrip("~^ ").removesuffix("$")
        return f"{{regex: '^{bare}'}}" if "'" not in bare else "{regex: '^/v[0-9]+/'}"
    if "{" in text or "}" in text:
        return '{template: "/v2/models/{model}/infer"}'
    return ""


def _named(part: str, number: int, last: bool) -> str:
    """A segment as templates have it."""
    if part == "**":
        return "{rest...}" if last else part
    if part == "*":
        return "{any" + str(number) + "}"
    found = _SEGMENT.fullmatch(part)
    if found is None:
        return part
    name = found[1] or found[2] or found[3]
    tail = last and part.startswith("{") and ("..." in part or "**" in part or part.endswith("*}"))
    return "{" + name + ("...}" if tail and part != "{" + name + "=*}" else "}")


def template_advice(text: str) -> str:
    """About a template that is none: what it means elsewhere."""
    form = instead_of_pattern(text)
    return f"; write {form[1:-1]}" if form and form != f'{{template: "{text}"}}' else ""


def host_advice(text: str, regex: bool) -> str:
    """About the host of a request, or a server's name; `regex` says whether host_regex can stand there instead."""
    if _HOST.fullmatch(text) and text != "_":
        return ""
    if text in _EVERY:
        return "is every host elsewhere; leave it out for any"
    bare = text.strip()
    if bare.startswith(".") and _HOST.fullmatch(bare[1:]):
        return f'is not a host; write "*{bare}" for every name below {bare[1:]}'
    if not bare.isascii() and (name := ascii_host(bare)):
        return f"is not spelled as clients send it; write {quoted(name)}"
    if (found := _AROUND_HOST.fullmatch(bare)) is not None and _HOST.fullmatch(found[1].rstrip(".")):
        return f"is not a host alone; write {quoted(found[1].rstrip('.'))}"
    many = [part for part in _MANY.split(bare) if part]
    if len(many) > 1 and all(_HOST.fullmatch(part) for part in many):
        return f"is more than one host; write {one_of_hosts(many)}" if regex else "is more than one name"
    if regex and bare[:1] in ("~", "^") and "'" not in bare:
        return f"is no expression here; write host_regex: '{bare.lstrip('~* ')}'"
    if regex and re.fullmatch(r"[A-Za-z0-9_.*-]+", bare):
        return f"is not a host: *. stands at the beginning only; write host_regex: '^{expression(bare, '.*')}$'"
    return ""


def one_of_hosts(names: list[str]) -> str:
    """What takes any of the hosts `names`, instead of `host`."""
    return f"host_regex: '^({'|'.join(expression(name, '[^.].*') for name in names)})$'"


def ascii_host(text: str) -> str:
    """A name with letters beyond ASCII as it goes over the wire; "" where there is none."""
    star = "*." if text.startswith("*.") else ""
    try:
        name = text.removeprefix(star).encode("idna").decode("ascii").lower()
    except UnicodeError:
        return ""
    return star + name if _HOST.fullmatch(name) else ""


def redirect_of_url(text: str) -> str:
    """The keys of a redirect to a URL; "" where `text` is none."""
    found = re.fullmatch(
        r"(https?)://([A-Za-z0-9_.-]+(?::[0-9]{1,5})?)(/[A-Za-z0-9_./~-]*)?(?:[$%{].*)?", text, re.ASCII
    )
    if found is None:
        return ""
    path = f", path: {found[3]}" if found[3] and found[3] != "/" else ""
    return f"scheme: {found[1]}, host: {quoted(found[2])}{path}"


def replacement_advice(text: str) -> str:
    """About a path that replaces another one."""
    if not text.endswith("*"):
        return ""
    return f"ends with a * that would be sent; write prefix: {text.rstrip('*')} to keep what follows match.path.prefix"


def name_advice(text: str) -> str:
    """About the name of a header, cookie or protocol, which stands for itself alone."""
    if "*" in text:
        return "is one name, no pattern; write each name that is meant"
    if (found := re.fullmatch(r"\$(?:sent_)?(?:http|cookie|arg|upstream_http)_([a-z0-9_]+)", text)) is not None:
        return f"is a variable elsewhere; write {found[1] if 'cookie' in text else found[1].replace('_', '-')}"
    if (found := re.fullmatch(r"[-+]([A-Za-z][A-Za-z0-9_-]*)", text)) is not None:
        return f"begins with a sign; write {found[1]}, in set, add or remove"
    return "is a variable elsewhere, and a name of its own here; write the name" if text.startswith("$") else ""


def regex_advice(text: str) -> str:
    """About a regular expression."""
    found = re.fullmatch(r"(~\*?)\s*(\^.*|\S.*)", text) if text.startswith("~") else None
    if found is None or "'" in text or (found[1] == "~" and not found[2].startswith(("^", "*", "(", "."))):
        return ""
    return f"begins with a ~ that a text would have to have; write '{'(?i)' if found[1] == '~*' else ''}{found[2]}'"


def token_list_advice(text: str) -> str:
    """About one name of a list."""
    parts = [part for part in re.split(r"[,;\s]+", text) if part]
    return f"is one name; write [{', '.join(map(quoted, parts))}]" if len(parts) > 1 else ""


def value_advice(text: str) -> str:
    """The mapping that a value of a header, cookie, parameter or model means which is a pattern elsewhere."""
    if re.fullmatch(r"[A-Za-z0-9*+.-]+/\*", text):  # a range of media types, as in Accept
        return ""
    core = text.strip("*")
    if re.fullmatch(r"\*+|\.[*+]|\^\.[*+]\$", text):
        return "{present: true}"
    if (found := re.fullmatch(r"(~\*?)\s*(\S.*)", text)) is not None and (
        found[1] == "~*" or re.search(r"[\s^$|\\]", text)
    ):
        return f"{{regex: '{'(?i)' if found[1] == '~*' else ''}{found[2]}'}}" if "'" not in text else ""
    if text.startswith("^") or ".*" in text or ".+" in text:
        bare = text.removeprefix("~").removeprefix("*")
        return f"{{regex: '{bare}'}}" if "'" not in bare else ""
    if core and "*" not in core and core != text:
        kind = "contains" if text[0] == text[-1] == "*" else "prefix" if text[-1] == "*" else "suffix"
        return f"{{{kind}: {quoted(core)}}}"
    return ""


def expression(glob: str, star: str) -> str:
    """A text with `*` as an expression, which has `star` for each."""
    return star.join(re.sub(r"([.+?()\[\]{}|^$\\])", r"[\1]", part) for part in re.split(r"\*+", glob))


def quoted(text: str) -> str:
    """`text` as YAML has it inside of brackets and braces."""
    if re.fullmatch(r"[A-Za-z/_][A-Za-z0-9/._-]*", text, re.ASCII) and text.lower() not in _WORDS:
        return text
    if re.fullmatch(r"[0-9]+(?:[A-Za-z./-][0-9A-Za-z./-]*)", text, re.ASCII) and not re.fullmatch(
        r"[0-9.eExX_]+", text
    ):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_WORDS = frozenset(("true", "false", "yes", "no", "on", "off", "null", "none", "y", "n"))
