"""The site: a strict build has no dead link or anchor and no page that the navigation leaves out; the search finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", place]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    return place


class Links(HTMLParser):
    """What a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        said = dict(attributes)
        if tag in ("script", "img", "iframe"):
            self.loaded.append(said.get("src") or "")
        elif tag == "link" and said.get("rel") in ("stylesheet", "preconnect", "icon"):
            self.loaded.append(said.get("href") or "")


def test_every_page_is_there(site: Path) -> None:
    pages = {
        path.relative_to(ROOT / "docs").with_suffix("")
        for path in (ROOT / "docs").rglob("*.md")
        if path.stem != "README"
    }
    built = {path.parent.relative_to(site) for path in site.rglob("index.html")}
    assert pages <= built
    assert {Path("."), Path("changelog"), Path("contributing"), Path("security")} <= built


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        links = Links()
        links.feed(path.read_text(encoding="utf-8"))
        assert links.loaded
        assert [link for link in links.loaded if link.startswith(("http:", "https:", "//"))] == [], path


def test_the_search_has_every_topic(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = {one["location"].partition("#")[0] for one in index["docs"]}
    assert {"", "howto/install/", "configuration/", "howto/coming-from-nginx/", "adr/http-cache/"} <= found
    assert any("limit_req" in one["text"] for one in index["docs"])
