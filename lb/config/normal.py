"""The one form of a path, in plain Python: what the configuration's own paths are held against, and what the compiled
`lb.proxy.routing.normalize` is tested against."""

from __future__ import annotations

import re

from lb.config.plan.routes import NormalizePlan

_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})?|\\", re.ASCII)
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]", re.ASCII)


def normal_path(path: str, plan: NormalizePlan) -> str | None:
    """The form in which `path` (from its first slash, without query) is compared and passed on; None = answered with
    400."""
    refused = False

    def escape(match: re.Match[str]) -> str:
        nonlocal refused
        if match[0] == "%":
            refused = refused or plan.decode
            return match[0]
        character = chr(int(match[1], 16)) if match[1] else match[0]
        if character in "/\\" and plan.escaped_slash in ("decode", "reject"):
            refused = refused or plan.escaped_slash == "reject"
            return "/"
        if not plan.decode or match[0] == character:
            return match[0]
        refused = refused or character == "\0"
        return character if _UNRESERVED.fullmatch(character) else match[0].upper()

    path = _ESCAPE.sub(escape, path)
    if refused:
        return None
    kept: list[str] = []
    segments = path.split("/")[1:]
    last = len(segments) - 1
    for i, segment in enumerate(segments):
        if plan.dot_segments and segment in (".", ".."):
            if segment == ".." and kept:
                kept.pop()
            if i == last:
                kept.append("")
        elif not (plan.merge_slashes and segment == "" and i != last):
            kept.append(segment)
    return "/" + "/".join(kept)
