"""Writes docs/metrics.md: what the workers count, from its tables (lb.shared.words).

python -m lb.telemetry.reference
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lb.shared.words import COUNTER, KINDS, Kind, View, Word

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
_HEAD = """# What the workers count

Generated from `lb/shared/words.py` by `make docs`; change it there.

Each worker counts in shared memory; a scrape sums over the workers. [Observe](howto/observe.md#metrics) says which
metrics to look at first. `/metrics` also has metrics of the daemon, of health and of model servers; they are not listed
here.

The status document (`GET /api/v1/status`, `tidegate status --json`) has the same counters under `counters`: for each
kind a list with a row for each listener, route, endpoint and so on. A counter with a further label is an object in
which values of 0 are left out; a histogram is its `count` and `sum_s`.
"""


def page() -> str:
    """The page as it should be."""
    return "\n".join([_HEAD, *(line for kind in KINDS.values() for line in _kind(kind))])


def _kind(kind: Kind) -> Iterator[str]:
    for view in kind.views:
        yield f"## {view.prefix.replace('_', ' ').capitalize().replace('Udp', 'UDP')}"
        yield ""
        first = view is kind.views[0]
        labels = ", ".join(f"`{label}`" for label in view.labels)
        yield f"Labels: {labels}. " + (
            f'In the status document: `counters["{kind.name}"]`, by the names in the last column.'
            if first
            else f"Sums over the `{kind.name}` series."
        )
        yield ""
        yield f"| metric | type | further labels | meaning |{' in the status document |' if first else ''}"
        yield "|---|---|---|---|" + "---|" * first
        for word, kind_of in _rows(kind, view):
            name = f"tidegate_{word.family(view.prefix)}{'_total' if kind_of == COUNTER else ''}"
            further = "; ".join(
                f"`{label}`" if len(word.values) > 12 else f"`{label}`: {', '.join(value[i] for value in word.values)}"
                for i, label in enumerate(word.labels)
            )
            line = f"| `{name}` | {kind_of} | {further} | {word.help(view)} |"
            yield f"{line} `{word.name}` |" if first else line
        yield ""


def _rows(kind: Kind, view: View) -> Iterator[tuple[Word, str]]:
    if kind.running is not None:
        yield kind.running, "gauge"
    if kind.begun is not None:
        yield kind.begun, COUNTER
    for _, word in kind.shown_in(view):
        yield word, word.type


if __name__ == "__main__":
    PAGE.write_text(page())
