"""The tables of words: each word has a place and a name of its own, on the Python side and on the compiled one."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from lb.shared import words
from lb.shared.segment import Segment
from lb.shared.words import ENDPOINT, KINDS, ROUTE, SERIES, SIZE, Kind, Word

DECLARED = Path(words.__file__).with_name("segment_words.pxd")


def test_the_compiled_side_was_built_by_these_tables() -> None:
    assert DECLARED.read_text() == words.declarations()
    segment = Segment.create(1)
    assert len(segment.series_total(0)) == SIZE
    segment.close()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_no_word_stands_in_for_another(kind: Kind) -> None:
    places = [at + i for at, _, word in kind.rows() for i in range(word.size)]
    assert places == list(range(kind.size))
    assert kind.size <= SIZE
    names = [word.name for _, _, word in kind.rows()]
    assert len(set(names)) == len(names)
    assert names[:2] == [word.name for word in SERIES.words]
    for _, _, word in kind.rows():
        for labels in word.values:
            assert len(labels) == len(word.labels)


def test_no_two_rows_have_the_same_metric() -> None:
    families = []
    for kind in KINDS.values():
        for view in kind.views:
            rows = [word for _, word in kind.shown_in(view)]
            rows += [word for word in (kind.running, kind.begun) if word is not None]
            families += [word.family(view.prefix) for word in rows]
    assert len(set(families)) == len(families)


def test_a_block_has_its_place_in_every_kind() -> None:
    assert ROUTE.place("requests.5xx") == ENDPOINT.place("requests.5xx")
    constants = dict(re.findall(r"^    (\w+) = (\d+)$", words.declarations(), re.MULTILINE))
    assert constants["ANSWER_REQUESTS_5XX"] == str(ROUTE.place("requests.5xx"))
    assert constants["ROUTE_HEDGE_RESULTS_LOST"] == str(ROUTE.place("hedge_results.lost"))


def test_a_new_row_is_a_new_constant_and_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = words.declarations()
    longer = replace(ROUTE, words=(*ROUTE.words, Word("trailers", "Requests with trailers")))
    monkeypatch.setitem(KINDS, "route", longer)
    after = words.declarations()
    assert f"ROUTE_TRAILERS = {ROUTE.size}\n" in after
    digest = re.compile(r"SERIES_DIGEST = \d+")
    assert digest.findall(after) != digest.findall(before)


def test_a_name_that_is_not_there() -> None:
    for name in ("nothing", "requests.6xx", "retries.all"):
        with pytest.raises(KeyError):
            ROUTE.place(name)


def test_two_rows_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = replace(ROUTE, words=(*ROUTE.words, Word("hedge_results_won", "The same constant")))
    monkeypatch.setitem(KINDS, "route", twice)
    with pytest.raises(ValueError, match="ROUTE_HEDGE_RESULTS_WON"):
        words.declarations()
