"""The page of what other balancers have: each row has a section here, or says why there is none."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_each_row_leads_to_a_section_or_says_why_not() -> None:
    """That the links and anchors lead somewhere is what the strict build of the site shows (test_site)."""
    page = (DOCS / "capabilities.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ") and not line.startswith("| What ")]
    assert len(rows) > 90
    for row in rows:
        assert len(row) == 3, row
        assert re.search(r"\]\([a-z/-]+\.md", row[2]) or re.match(r"Not here( yet)?: ", row[2]), row
    names = [row[0] for row in rows]
    assert len(set(names)) == len(names)
