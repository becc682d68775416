"""The guard's tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.guard.compare import Comparison, Verdict
from bench.guard.profile import Count

_STYLE = {Verdict.WORSE: "bold red", Verdict.BETTER: "bold green", Verdict.NEW: "yellow", Verdict.SAME: ""}


def show_comparison(console: Console, comparisons: Sequence[Comparison], percent: float) -> None:
    """Path by path: stored, measured, the change, and for what changed beyond `percent` where it did."""
    table = _table("path", "stored", "measured", "change", "system calls", "verdict")
    for one in comparisons:
        table.add_row(
            one.path,
            "-" if one.stored is None else _number(one.stored.instructions),
            _number(one.measured.instructions),
            "-" if one.percent is None else f"{one.percent:+.2f} %",
            _calls(one),
            Text(one.verdict, style=_STYLE[one.verdict]),
        )
    console.print(table)
    console.print(Text(f"Instructions per request of the data path; tolerance {percent:g} %.", style="dim"))
    for one in comparisons:
        if one.verdict in (Verdict.WORSE, Verdict.BETTER) and one.moved:
            console.print()
            console.print(Text(f"{one.path}: where it changed, in instructions per request", style="bold"))
            where = _table("function", "stored", "measured", "change")
            for moved in one.moved:
                where.add_row(
                    moved.function, _number(moved.before), _number(moved.after), f"{moved.instructions:+,.1f}"
                )
            console.print(where)


def show_counts(console: Console, counts: dict[str, Count]) -> None:
    table = _table("path", "instructions/request", "system calls/request")
    for path, count in counts.items():
        table.add_row(path, _number(count.instructions), f"{count.system_calls:.2f}")
    console.print(table)


def show_profile(console: Console, path: str, count: Count, top: int) -> None:
    """The costliest functions by self cost."""
    table = _table("function", "instructions/request", "share")
    for name, instructions in list(count.functions.items())[:top]:
        table.add_row(name, _number(instructions), f"{instructions / count.instructions:.1%}")
    console.print(table)
    shown = sum(list(count.functions.values())[:top])
    console.print(
        Text(
            f"{path}: {_number(count.instructions)} instructions and {count.system_calls:.2f} system calls per "
            f"request; {shown / count.instructions:.0%} of the instructions shown.",
            style="dim",
        )
    )


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first, overflow="fold")
    for title in others:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _number(value: float) -> str:
    return f"{value:,.1f}"


def _calls(one: Comparison) -> str:
    after = f"{one.measured.system_calls:.2f}"
    before = after if one.stored is None else f"{one.stored.system_calls:.2f}"
    return after if before == after else f"{before} to {after}"
