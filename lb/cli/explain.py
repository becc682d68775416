"""`tidegate explain`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lb.cli.admin import AdminClient, AdminError
from lb.cli.status import keep_whole
from lb.config.schema.base import did_you_mean


def explain(client: AdminClient, target: str, question: dict[str, Any], as_json: bool) -> None:
    """Asks what would become of a request to `target`, a listener's or a pool's name, and prints it.

    A name that both have is the listener's. Raises AdminError.
    """
    status = client.status()
    if status["state"] == "stopping":
        raise AdminError("the daemon is stopping: it takes no new connections")
    if target in [row["name"] for row in status["listeners"]]:
        question = {**question, "listener": target}
    elif target in [row["name"] for row in status["pools"]]:
        question = {**question, "pool": target}
    else:
        names = [row["name"] for part in ("listeners", "pools") for row in status[part]]
        raise AdminError(f"there is no listener and no pool {target!r}{did_you_mean(target, names)}")
    found = client.explain(question)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 400)
    for line in _lines(found):
        console.print(line)


def _lines(found: dict[str, Any]) -> Iterator[Text | Table]:
    route, pool = found["route"], found["pool"]
    if route is not None:
        matched = ", ".join(route["matched"]) or "it takes every request"
        yield Text(f"route    {route['name']}: {matched}; no more particular route matches")
        if route["retry"] is not None:
            yield Text(f"retries  {_retries(route)}")
    if "reason" in found:
        yield Text(f"reason   {found['reason']}")
    if pool is None:
        return
    yield Text(f"pool     {pool['name']}: {pool['policy']}, as worker {found['worker']} sees it")
    if pool["key"] is not None:
        yield Text(f"key      {pool['key']['value']} ({pool['key']['from']})")
    for step in pool["steps"]:
        yield Text(f"step     {step}")
    yield Text(f"rule     {pool['rule']}")
    yield _table(pool["endpoints"])
    choice = pool["choice"]
    open_ = pool["refused"] is None and any(e["available"] for e in pool["endpoints"])
    unknown = "not certain" if open_ else "none"
    yield Text(f"choice   {choice['address'] or unknown}: {choice['why']}")


def _retries(route: dict[str, Any]) -> str:
    """The retries of a route with a pool, in words."""
    retry, hedge = route["retry"], route["hedge"]
    words = [f"up to {retry['attempts']} more on {', '.join(retry['on'])}" if retry["attempts"] else "none"]
    if hedge is not None:
        after = (
            f"the {hedge['quantile']:g} quantile of the latency" if hedge["quantile"] else f"{hedge['delay_ms']:g} ms"
        )
        words.append(f"a hedge after {after}")
    if route["timeout_ms"]:
        words.append(f"{route['timeout_ms']:g} ms for all")
    if route["priority"] != "normal":
        words.append(f"priority {route['priority']}")
    return ", ".join(words)


def _local_transport(endpoint: dict[str, Any]) -> str:
    """Whether large messages go through shared memory, where they could."""
    found = endpoint.get("local_transport")
    if found is None or not endpoint["address"].startswith("unix:"):
        return ""
    return "local transport" if found["used"] else f"no local transport: {found['why_not']}"


def _table(endpoints: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("", "endpoint", "health", "admin", "weight", "in flight", "latency", "score", "note"):
        table.add_column(column, overflow="fold")
    keep_whole(table.columns[1], (e["address"] for e in endpoints))
    for e in endpoints:
        limit = f" of {e['max_in_flight']}" if e["max_in_flight"] else ""
        if e.get("outstanding_cost") is not None:
            limit += f", cost {e['outstanding_cost']:.3g}"
        latency = f"{e['latency_ms']} ms" if e["latency_ms"] else "-"
        note = e["why_not"] or e["note"]
        if e["share"] < 1 and e["available"]:
            note = "; ".join(filter(None, (note, f"gets {e['share']:.0%} of its weight")))
        if e.get("turns", 1) < 1:
            turns = f"{e['failing']:.0%} of its last attempts failed: it takes {e['turns']:.0%} of its turns"
            note = "; ".join(filter(None, (note, turns)))
        if e["ejection_state"] == "probation":
            note = "; ".join(filter(None, (note, "on probation")))
        note = "; ".join(filter(None, (note, _local_transport(e))))
        score = "-" if e["score"] is None else f"{e['score']:g}"
        row = ("*" if e["best"] else "", e["address"], e["health"], e["admin"], e["weight"], f"{e['in_flight']}{limit}")
        table.add_row(*(Text(str(cell)) for cell in (*row, latency, score, note)))
    return table
