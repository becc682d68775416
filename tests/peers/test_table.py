"""The page with the scenarios is that of the tests."""

from __future__ import annotations

from table import PAGE, page, scenarios


def test_the_page_is_that_of_the_tests() -> None:
    assert PAGE.read_text() == page(), "write it with: python tests/peers/table.py"


def test_each_scenario_says_what_it_shows() -> None:
    found = list(scenarios())
    for _, name, test in found:
        assert test.__doc__, name
        assert test.sources, name
    assert len({(source, name) for _, name, test in found for source in test.sources}) >= 60
