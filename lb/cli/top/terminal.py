"""`tidegate top` on a terminal: the readings, the keys, and the screen."""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from lb.cli.admin import AdminClient, AdminError
from lb.cli.top.columns import COLUMNS
from lb.cli.top.rates import KINDS, MODEL, Document, Rates, rates
from lb.cli.top.screen import View, lines, sort_column, status_line

_SHORTEST, _LONGEST = 0.25, 60.0  # seconds between two readings
_KEYS = {
    b"\x1b[A": "k", b"\x1b[B": "j", b"\x1b[C": ">", b"\x1b[D": "<", b"\x1b[5~": "page-up", b"\x1b[6~": "page-down",
    b"\x1bOA": "k", b"\x1bOB": "j", b"\x1bOC": ">", b"\x1bOD": "<", b"\x1b[H": "home", b"\x1b[F": "end",
    b"\x1b[1~": "home", b"\x1b[4~": "end", b"\x1b[Z": "back", b"\t": "tab", b"\r": "enter", b"\n": "enter",
    b"\x7f": "delete", b"\x08": "delete", b"\x1b": "escape",
}  # fmt: skip


def once(client: AdminClient, view: View, as_json: bool, console: Console | None = None) -> None:
    """Prints what happened in one interval. Raises AdminError."""
    before = _readings(client, view)
    time.sleep(view.interval)
    _print(rates(before, _readings(client, view)), view, as_json, console)


def stream(client: AdminClient, view: View, as_json: bool, console: Console | None = None) -> None:
    """Prints each interval below the other, for ever: for pipes and files. Raises AdminError."""
    before = _readings(client, view)
    while True:
        time.sleep(view.interval)
        after = _readings(client, view)
        _print(rates(before, after), view, as_json, console)
        sys.stdout.flush()
        before = after


def _print(found: Rates, view: View, as_json: bool, console: Console | None) -> None:
    if as_json:
        print(json.dumps(found.to_dict()))
        return
    # Into a pipe or a file nothing is cut off.
    console = console or Console(highlight=False, width=None if sys.stdout.isatty() else 400)
    for line in lines(found, view, console.width, None):
        console.print(line, no_wrap=True, crop=False)


def watch(client: AdminClient, view: View) -> None:
    """Shows it on the terminal until `q` or Ctrl-C. Raises AdminError when the daemon cannot be asked at the start;
    later that is shown, and asked again."""
    before: Document = _readings(client, view)
    console = Console(highlight=False)
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        found: Rates | None = None
        trouble = ""
        due = time.monotonic() + min(view.interval, 0.5)  # the first picture soon
        while True:
            _draw(live, console, found, view, trouble)
            for key in pressed(max(0.0, due - time.monotonic())):
                if not press(view, key, console.height):
                    return
            if time.monotonic() < due:
                continue
            due = time.monotonic() + view.interval
            if view.paused:
                continue
            before, found, trouble = _read(client, view, before, found)


def _readings(client: AdminClient, view: View) -> Document:
    """Model servers are asked only while somebody looks at models."""
    return client.readings(view.kind == MODEL)


def _read(client: AdminClient, view: View, before: Document, found: Rates | None) -> tuple[Document, Rates | None, str]:
    try:
        after = _readings(client, view)
    except AdminError as error:
        return before, found, str(error)
    return after, rates(before, after), ""


def _draw(live: Live, console: Console, found: Rates | None, view: View, trouble: str) -> None:
    width, height = console.size
    body = [Text("reading…")] if found is None else lines(found, view, width, height - bool(trouble))
    if trouble:
        body.insert(0, Text(trouble, "red"))
    body = body[: height - 1]
    body += [Text()] * (height - 1 - len(body))
    foot = Text(status_line(view), "dim" if not view.typing else "bold")
    for line in (*body, foot):
        line.truncate(width, overflow="ellipsis")
    live.update(Group(*body, foot), refresh=True)


def press(view: View, key: str, height: int) -> bool:
    """What a key does to the view; False ends. `height` is the terminal's, for whole pages."""
    if view.typing:
        _type(view, key)
        return True
    page = max(1, height - 8)
    moves = {"j": 1, "k": -1, "page-down": page, "page-up": -page, "home": -(10**9), "end": 10**9}
    tables = ("", *KINDS)
    if key == "q":
        return False
    if key in moves:
        view.kind = view.kind or "endpoint"  # all tables at once have no rows to go through
        view.scroll += moves[key]
    elif key in ("tab", "back"):
        _table(view, tables[(tables.index(view.kind) + (1 if key == "tab" else -1)) % len(tables)])
    elif key.isdigit() and int(key) < len(tables):
        _table(view, tables[int(key)])
    elif key in ("<", ">"):
        _sort(view, 1 if key == ">" else -1)
    elif key == "r":
        view.reverse = not view.reverse
    elif key == "/":
        view.typing, view.filter = True, ""
    elif key == "escape":
        view.filter = ""
    elif key == " ":
        view.paused = not view.paused
    elif key in ("+", "-"):
        view.interval = min(_LONGEST, max(_SHORTEST, view.interval * (2 if key == "+" else 0.5)))
    return True


def _table(view: View, kind: str) -> None:
    view.kind, view.scroll = kind, 0


def _sort(view: View, step: int) -> None:
    kind = view.kind or "endpoint"
    columns = COLUMNS[kind]
    at = columns.index(sort_column(kind, view))
    view.sort = columns[(at + step) % len(columns)].title


def _type(view: View, key: str) -> None:
    if key in ("enter", "escape"):
        view.typing = False
        if key == "escape":
            view.filter = ""
    elif key == "delete":
        view.filter = view.filter[:-1]
    elif len(key) == 1 and key.isprintable():
        view.filter += key
    view.scroll = 0


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], list[str]]]:
    """Gives a function that waits so many seconds for keys; without a terminal to read from there are none."""
    if not sys.stdin.isatty():
        yield _none
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield lambda seconds: parse(os.read(fd, 1024)) if select.select([fd], [], [], seconds)[0] else []
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _none(seconds: float) -> list[str]:
    time.sleep(seconds)
    return []


def parse(data: bytes) -> list[str]:
    """The keys of what a terminal sent."""
    keys, names = [], sorted(_KEYS, key=len, reverse=True)
    while data:
        known = next((name for name in names if data.startswith(name)), None)
        if known is not None:
            keys.append(_KEYS[known])
        else:  # a character, of one byte or more
            length = next((n for n in range(1, 5) if _decodes(data[:n])), 1)
            known = data[:length]
            keys += [character for character in known.decode(errors="ignore") if character.isprintable()]
        data = data[len(known) :]
    return keys


def _decodes(data: bytes) -> bool:
    try:
        return bool(data.decode())
    except UnicodeDecodeError:
        return False
