"""Metrics of the traffic: every row of the tables of lb.shared.words, of every series."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import Metric

from lb.shared.words import HISTOGRAM, Kind, View, Word
from lb.telemetry.families import counter, durations, gauge
from lb.telemetry.series import Series, Totals, summed

_Rows = Mapping[tuple[str, ...], Series]


def families(totals: Totals) -> Iterator[Metric]:
    """The metrics of all kinds that there are any series of."""
    for kind, rows in totals.items():
        for view in kind.views if rows else ():
            yield from _view(kind, view, rows if view is kind.views[0] else summed(rows, len(view.labels)))


def _view(kind: Kind, view: View, rows: _Rows) -> Iterator[Metric]:
    if kind.running is not None:
        now = ((key, series.running) for key, series in rows.items())
        yield gauge(kind.running.family(view.prefix), kind.running.help(view), view.labels, now)
    if kind.begun is not None:
        begun = ((key, series["started"]) for key, series in rows.items())
        yield counter(kind.begun.family(view.prefix), kind.begun.help(view), view.labels, begun)
    for at, word in kind.shown_in(view):
        shown = {key: s for key, s in rows.items() if s[word.where]} if word.where else rows
        yield _row(word, at, view, shown)


def _row(word: Word, at: int, view: View, rows: _Rows) -> Metric:
    name, text = word.family(view.prefix), word.help(view)
    if word.type == HISTOGRAM:
        return durations(
            name, text, view.labels, ((key, s.cumulative(word.name), s.words[at]) for key, s in rows.items())
        )
    values = word.values or ((),)
    numbers = (((*key, *value), s.words[at + i]) for key, s in rows.items() for i, value in enumerate(values))
    return counter(name, text, (*view.labels, *word.labels), numbers)
