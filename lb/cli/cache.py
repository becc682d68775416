"""`tidegate cache`: the result cache of a running daemon, looked at, purged and filled."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lb.cli.admin import AdminClient, AdminError
from lb.cli.status import cell, table_of

_KEY = 12  # digits of a key that are shown


def stats(client: AdminClient, as_json: bool, console: Console | None = None) -> None:
    """Prints the counters of the cache. Raises AdminError."""
    found = client.cache()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    console = console or _console()
    for line in _stats(found):
        console.print(line)


def top(client: AdminClient, last: int, as_json: bool, console: Console | None = None) -> None:
    """Prints the most requested entries of the cache. Raises AdminError."""
    found = client.cache_top(last)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    console = console or _console()
    table = table_of("requests", "pool", "model", "version", "bytes", "age", "fresh for", "cost", "key")
    for entry in found["entries"]:
        requests = entry["requests"]
        table.add_row(
            *map(
                cell,
                (
                    f"{requests}+" if requests >= 15 else requests,
                    *(entry[name] or "-" for name in ("pool", "model", "version")),
                    size(entry["size"]),
                    seconds(entry["age_s"]),
                    seconds(entry["fresh_s"]) if entry["fresh_s"] else "stale",
                    seconds(entry["cost_s"]),
                    entry["key"][:_KEY],
                ),
            )
        )
    console.print(table if found["entries"] else Text("the cache is empty"))
    if found["share"] < 1:
        console.print(f"looked at {found['share']:.1%} of the cache")


def purge(client: AdminClient, named: Mapping[str, str | None], everything: bool) -> None:
    """Purges what is named, and says so. Raises AdminError."""
    wanted: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    if not wanted and not everything:
        raise AdminError("say what to purge: --model, --pool, --tenant, --tag, --url, or --all")
    if everything:
        wanted["all"] = True
    purged = client.purge(wanted)
    print("purged all of the cache" if everything else f"purged {', '.join(purged) or 'nothing: no pool has models'}")


def warm(client: AdminClient, file: Path, listener: str | None, concurrency: int) -> int:
    """Sends the requests of a file; the exit status: 1 when one of them failed. Raises AdminError."""
    from lb.cli.warm import recorded, send, target_of  # with aiohttp, which only this needs

    target = target_of(listener, client)
    with recorded(file) as requests:
        outcome = send(requests, target, concurrency)
    for line, problem in outcome.problems:
        print(f"line {line}: {problem}", file=sys.stderr)
    more = outcome.failed - len(outcome.problems)
    if more > 0:
        print(f"and {more} more that failed", file=sys.stderr)
    print(f"{outcome.requests} requests: {outcome}")
    return 1 if outcome.failed else 0


def _stats(found: dict[str, Any]) -> Iterable[Text | Table]:
    hits = found["hits"] + found["stale"]
    yield Text(f"entries    {found['entries']}, {size(found['bytes'])} of {size(found['capacity'])}")
    yield Text(f"requests   {hits + found['misses']}: {hits} hits ({found['stale']} stale), {found['misses']} misses")
    yield Text(f"hit ratio  {_percent(found['hit_ratio'])}")
    yield Text(f"saved      {seconds(found['saved_s'])} of compute")
    yield Text(f"stored     {found['stored']}, evicted {found['evictions']}, expired {found['expired']}")
    rejected = found["rejected"]
    yield Text(
        f"rejected   {sum(rejected.values())}: {rejected['value']} were worth less than what is there, "
        f"{rejected['size']} too large, {rejected['busy']} met a lock, {rejected['purged']} purged meanwhile"
    )
    yield Text(f"purges     {found['purges']}")
    if found["disk_bytes"] or found["disk_failing"]:
        failing = f", {found['disk_failing']} workers cannot use it" if found["disk_failing"] else ""
        shown = f"{found['disk_hits']} hits, {found['disk_stored']} stored, {found['disk_evictions']} evicted"
        yield Text(f"disk       {size(found['disk_bytes'])}, {shown}{failing}", "red" if failing else "")
    damaged = found["corrupt"] + found["broken_locks"]
    if damaged:
        yield Text(f"damage     {found['corrupt']} found, {found['broken_locks']} locks of dead processes", "red")
    if found["tier"] is not None:
        yield from _tier(found["tier"])
    for cdn in found["cdns"]:
        error = f"; the last try failed: {cdn['error']}" if cdn["error"] else ""
        told = f"told {cdn['purges']} times, {cdn['waiting']} tags wait{error}"
        yield Text(f"CDN        {cdn['name']}: {told}", "red" if error else "")
    if found["routes"]:
        table = table_of("route", "hits", "misses", "collapsed", "bypass", "stored", "hit ratio")
        for row in found["routes"]:
            counts = (row[name] for name in ("hit", "miss", "collapsed", "bypass", "stored"))
            table.add_row(*map(cell, (row["route"], *counts, _percent(row["hit_ratio"]))))
        yield table


def _tier(tier: dict[str, Any]) -> Iterable[Text]:
    state = {"closed": "up", "open": "left alone", "partly open": "left alone by some processes"}[tier["state"]]
    error = f": {tier['error']}" if tier["error"] else ""
    yield Text(f"tier       {tier['server']}, {state}{error}", "red" if tier["state"] != "closed" else "")
    failed = (
        f"{tier['timeouts']} timeouts, {tier['errors']} errors, {tier['invalid']} not ours, {tier['skipped']} skipped"
    )
    yield Text(f"           {tier['hits']} hits, {tier['misses']} misses, {failed}")
    waiting = f", {tier['pending_purges']} purges wait" if tier["pending_purges"] else ""
    yield Text(f"           {tier['stored']} stored, {tier['dropped']} dropped{waiting}")


def size(count: float) -> str:
    """Bytes, in the unit that reads best."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def seconds(value: float) -> str:
    """A time, in the unit that reads best."""
    if value < 1:
        return f"{value * 1000:.3g} ms" if value >= 0.001 or not value else f"{value * 1e6:.3g} µs"
    return f"{value:.3g} s" if value < 100 else str(timedelta(seconds=round(value)))


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1%}"


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else 400)
