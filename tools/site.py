"""Hooks of MkDocs (mkdocs.yml): pages that stand outside docs/, and links that lead out of it.

README, CHANGELOG, CONTRIBUTING and SECURITY are pages of the site under lower-case names. A link to another file of the
repository becomes its path as text, because the site has no such page.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_CODE = re.compile(r"^( *)(`{3,}).*?^ *\2`*$", re.MULTILINE | re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Decisions are listed by their files, and a page that the navigation does not name yet stands under "More"."""
    decisions = sorted(path.name for path in (ROOT / "docs" / "adr").glob("*.md") if path.name != "README.md")
    nav = list(config.nav or ())
    for entry in nav:
        if isinstance(entry, dict) and "Decisions" in entry:
            entry["Decisions"] = ["adr/README.md", *(f"adr/{name}" for name in decisions)]
    named = set(_named(nav))
    pages = (path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))
    if more := sorted(page for page in pages if page not in named):
        nav.append({"More": more})
    config.nav = nav
    return config


def _named(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _named(entry)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    sources = {target: source for source, target in PAGES.items()}
    place = page.file.src_uri
    inside = place not in sources
    folder = posixpath.dirname(f"docs/{place}") if inside else ""

    def link(found: re.Match[str]) -> str:
        text, target = found.groups()
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        path, mark, anchor = target.partition("#")
        wanted = posixpath.normpath(posixpath.join(folder, path))
        if wanted in PAGES:
            new = PAGES[wanted]
        elif wanted.startswith("docs/") and (ROOT / wanted).is_file():
            new = wanted.removeprefix("docs/")
        elif wanted == "docs/adr":
            new = "adr/README.md"
        elif (ROOT / wanted).exists():
            return text if text.strip("`").rstrip("/") == wanted else f"{text} (`{wanted}`)"
        else:
            return found[0]  # MkDocs says that it is not there
        start = posixpath.dirname(place)
        return f"[{text}]({posixpath.relpath(new, start or '.')}{mark}{anchor})"

    parts = []
    at = 0
    for code in _CODE.finditer(markdown):
        parts += [_LINK.sub(link, markdown[at : code.start()]), code[0]]
        at = code.end()
    return "".join([*parts, _LINK.sub(link, markdown[at:])])
