"""`tidegate status`: the status document as tables."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from lb.cli.plain import plain

_GOOD = {"running", "up", "enabled", "ready", "current", "standby"}
_ADDRESSES = 8  # of a listener, beyond its first
_LINES = 6  # of the output of a server that cannot start
_WHOLE = 24  # longest address that is not folded: all of IPv4, with some room
_BAD = {"down", "unready", "crash_loop", "backoff", "stopped", "stale", "partial", "waiting"}


def show(document: dict[str, Any], as_json: bool, console: Console | None = None) -> None:
    """Prints a document of lb.control.admin.status."""
    if as_json:
        print(json.dumps(document, indent=2))
        return
    console = console or printer()
    for line in _head(document):
        console.print(line)
    console.print(_workers(document["workers"]))
    console.print(_listeners(document["listeners"]))
    for part in pools_table(document["pools"], console.width):
        console.print(part)
    if any(_leaving(document)):
        console.print(_leaving_table(document))
    divided = [pool for pool in document["pools"] if pool.get("levels")]
    if divided:
        console.print(_levels(divided))
    weighed = [pool for pool in document["pools"] if pool.get("cost") and pool["cost"]["models"]]
    if weighed:
        console.print(_costs(weighed))
    engines = [pool for pool in document["pools"] if pool.get("engine")]
    if engines:
        console.print(_engines(engines))
    discovered = [pool for pool in document["pools"] if pool.get("discovery")]
    if discovered:
        console.print(_discovery(discovered))
    managed = [pool for pool in document["pools"] if pool["managed"]]
    if managed:
        console.print(_managed(managed))
        for line in _outputs(managed):
            console.print(line)


def printer() -> Console:
    """Standard output; into a pipe or a file nothing is cut off."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 400)


def _head(document: dict[str, Any]) -> Iterable[Text]:
    uptime = timedelta(seconds=int(document["uptime_s"]))
    yield Text(f"tidegate {document['version']}  {document['state']}  up {uptime}  plan {document['generation']}")
    zone = f"  zone {document['zone']}" if document.get("zone") else ""
    yield Text(f"configuration {document['config']}{zone}")
    program = document.get("program") or {}
    if old := program.get("old_workers"):
        yield Text(f"workers of the version before the upgrade finish what they have: pid {', '.join(map(str, old))}")
    if (upgrade := program.get("last_upgrade")) is not None:
        versions = f"from {upgrade['before']} to {upgrade['after'] or 'the installed version'}"
        at = datetime.fromtimestamp(upgrade["at"]).strftime("%Y-%m-%d %H:%M:%S")
        outcome = "ok" if upgrade["ok"] else f"failed: {upgrade['error']}"
        yield Text(f"last upgrade {at} {versions}: {outcome}", "" if upgrade["ok"] else "red")
    last = document["last_reload"]
    if last is not None:
        at = datetime.fromtimestamp(last["at"]).strftime("%Y-%m-%d %H:%M:%S")
        yield Text(
            f"last reload {at}: {'ok' if last['ok'] else 'failed: ' + last['error']}", "" if last["ok"] else "red"
        )
        for note in last["notes"]:
            yield Text(f"needs a restart: {note}", "yellow")
    for change in document.get("changes", ()):
        yield Text(f"changed at run time: {changed(change)}", "yellow")
    shortage = (document.get("open_files") or {}).get("shortage")
    if shortage:
        yield Text(shortage, "yellow")
    if jobs := document.get("jobs"):
        yield _jobs(jobs)
        if jobs["store_error"]:
            yield Text(f"jobs: {jobs['store_error']}", "red")
    quotas = document.get("quotas") or {}
    if quotas.get("trouble"):
        yield Text(f"quotas: {quotas['file']} cannot be written: {quotas['trouble']}", "red")
    for row in document.get("canaries", ()):
        text = f"canary {row['pool']} of route {row['route']}: {row['phase']}, {row['percent']:g} %: {row['reason']}"
        yield Text(text, "red" if row["phase"] == "aborted" else "")
    for worker in document["workers"]:
        trouble = (worker.get("stats") or {}).get("access_log_trouble")
        if trouble:
            yield Text(f"access log of worker {worker['index']}: {trouble}; records are lost", "red")
    tls = document.get("tls") or {"certificates": (), "problems": ()}
    for problem in tls["problems"]:
        yield Text(f"changed files are not used: {problem}", "red")
    for certificate in tls["certificates"]:
        if certificate["state"] != "valid":
            at = datetime.fromtimestamp(certificate["not_after"]).strftime("%Y-%m-%d %H:%M")
            yield Text(f"{certificate['owner']}: {certificate['file']} is {certificate['state']} (ends {at})", "red")
    slow = [name for name, compiled in document["compiled"].items() if not compiled]
    if slow:
        yield Text(f"not compiled: {', '.join(slow)}", "red")


def changed(change: Mapping[str, Any]) -> str:
    """A change of an operator as a line: what, since when, by whom."""
    what = change["setting"] if "pool" not in change else f"{change['pool']} {change['endpoint']}: {change['setting']}"
    at = datetime.fromtimestamp(change["at"]).strftime("%Y-%m-%d %H:%M:%S") if change["at"] is not None else None
    since = f", since {at} by {change['by']}" if at is not None else ""
    value, file = ("none" if change[key] is None else change[key] for key in ("value", "file"))
    return f"{what} is {value} instead of {file}{since}"


def _jobs(jobs: Mapping[str, Any]) -> Text:
    numbers: Counter[str] = Counter()
    for _, state, number in jobs["jobs"]:
        numbers[state] += number
    text = ", ".join(f"{number} {state}" for state, number in numbers.items() if number) or "none"
    if jobs["oldest_s"]:
        text += f", the oldest for {timedelta(seconds=int(jobs['oldest_s']))}"
    if jobs["state"] == "running":
        return Text(f"jobs: {text}", "yellow" if numbers["dead"] else "")
    return Text(f"jobs: the process is {jobs['state']}: {jobs['error'] or 'it starts'}", "red")


def _workers(workers: Sequence[dict[str, Any]]) -> Table:
    table = table_of("worker", "pid", "state", "plan", "busy", "restarts", "last exit")
    for w in workers:
        row = (
            w["index"],
            w["pid"] or "-",
            w["state"],
            w["generation"],
            w["busy"],
            w["restarts"],
            w["last_exit"] or "-",
        )
        table.add_row(*map(cell, row))
    return table


def _listeners(listeners: Sequence[dict[str, Any]]) -> Table:
    table = table_of("listener", "address", "protocol")
    for listener in listeners:
        first, *others = listener.get("sockets") or [listener["address"]]
        address = first + (" (passed by systemd)" if listener["inherited"] else "")
        table.add_row(*map(cell, (listener["name"], address, listener["protocol"])))
        for other in others[:_ADDRESSES]:
            table.add_row(*map(cell, ("", other, "")))
        if len(others) > _ADDRESSES:
            table.add_row(*map(cell, ("", f"and {len(others) - _ADDRESSES} more", "")))
    return table


def pools_table(pools: Sequence[dict[str, Any]], width: int) -> Iterator[Table | Text]:
    """One table; where that is wider than the terminal, one below each pool's name, so that addresses stay whole."""
    parts = [(_pool_name(pool), [_endpoint(e) for e in pool["endpoints"]] or [_NO_ENDPOINT]) for pool in pools]
    columns = ("endpoint", "health", "admin", "weight", "in flight", "errors", "last check")
    table = table_of("pool", *columns)
    for name, rows in parts:
        for row in rows:
            table.add_row(*map(cell, (name, *row)))
            name = ""
    boundless = Console(width=10_000)
    if Measurement.get(boundless, boundless.options, table).maximum <= width:
        yield table
        return
    addresses = [row[0] for _, rows in parts for row in rows]
    for name, rows in parts:
        yield Text(f"pool {name}", "bold")
        table = table_of(*columns)
        keep_whole(table.columns[0], addresses)
        for row in rows:
            table.add_row(*map(cell, row))
        yield table


def _leaving(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(pool, row) of endpoints that were removed and still have something to do, those of removed pools last."""
    for pool in (*document["pools"], *document.get("removed_pools", ())):
        for row in pool.get("leaving", ()):
            yield pool["name"], row


def _leaving_table(document: dict[str, Any]) -> Table:
    table = table_of("leaving", "endpoint", "health", "in flight", "sequences", "for")
    last = ""
    for pool, row in _leaving(document):
        since = timedelta(seconds=int(row["leaving_for_s"]))
        shown = "" if pool == last else pool
        table.add_row(*map(cell, (shown, row["address"], row["health"], row["in_flight"], row["sequences"], since)))
        last = pool
    keep_whole(table.columns[1], (row["address"] for _, row in _leaving(document)))
    return table


_NO_ENDPOINT = ("none", "-", "-", "-", "-", "-", "-")


def _pool_name(pool: dict[str, Any]) -> str:
    waiting = f", {pool['queue']['waiting']} waiting" if pool["queue"] else ""
    panic = ", in a panic" if pool.get("panic") else ""
    known = [e["sessions"] for e in pool["endpoints"] if e.get("sessions") is not None]
    sessions = f", {sum(known)} sessions" if known else ""
    return f"{pool['name']} ({pool['protocol']}, {pool['policy']}{waiting}{panic}{sessions})"


def _endpoint(e: dict[str, Any]) -> tuple[object, ...]:
    last = (e["check"] or {}).get("last", {}).get("reason", "-")
    most = e.get("learned_limit") or e["max_in_flight"]
    limit = f" of {most}" if most else ""
    unready = [model for model, ready in (e.get("models") or {}).items() if not ready]
    if unready:
        last += f"; not ready: {', '.join(unready)}"
    if (e.get("steering") or {}).get("why_not"):
        last += f"; {e['steering']['why_not']}"
    if e.get("agent"):
        last += f"; agent: {e['agent']['last'].get('said', '-')}"
    cost = f", cost {e['outstanding_cost']:.3g}" if e.get("outstanding_cost") is not None else ""
    if e.get("turns", 1) < 1:
        last += f"; {e['failing']:.0%} of its last attempts failed: it takes {e['turns']:.0%} of its turns"
    return e["address"], _health(e), e["admin"], e["weight"], f"{e['in_flight']}{limit}{cost}", _errors(e), last


def _errors(e: dict[str, Any]) -> str:
    """The share of its answers that were its fault, and which gRPC statuses it gave."""
    errors = e.get("errors")
    if not errors or not errors["answers"]:
        return "-"
    codes = ", ".join(f"{n} {code}" for code, n in errors["grpc"].items())
    return f"{100 * errors['faults'] / errors['answers']:.3g} %" + (f" ({codes})" if codes else "")


def _costs(pools: Sequence[dict[str, Any]]) -> Table:
    table = table_of("cost", "model", "relative", "time for a unit", "learned from")
    for pool in pools:
        name = f"{pool['name']} ({pool['cost']['unit']})"
        for model, cost in pool["cost"]["models"].items():
            row = (name, model, f"{cost['relative']:.3g}", f"{cost['unit_s'] * 1e3:.3g} ms", cost["samples"])
            table.add_row(*map(cell, row))
            name = ""
    return table


def _levels(pools: Sequence[dict[str, Any]]) -> Table:
    """What the levels of pools with priorities or zones have now."""
    table = table_of("pool", "priority", "healthy", "could carry", "requests", "own zone", "other zones")
    for pool in pools:
        name = pool["name"]
        for level in pool["levels"]:
            parts = (level[key] for key in ("carries", "share", "own_zone", "other_zones"))
            carries, share, own, other = ("-" if part is None else f"{100 * part:.4g} %" for part in parts)
            panic = ", in a panic" if level["panic"] else ""
            healthy = f"{level['healthy']} of {level['endpoints']}{panic}"
            table.add_row(*map(cell, (name, level["priority"], healthy, carries, share, own, other)))
            name = ""
    return table


def _discovery(pools: Sequence[dict[str, Any]]) -> Table:
    table = table_of("discovery", "source", "state", "endpoints", "age", "next look", "error")
    for pool in pools:
        d = pool["discovery"]
        more = f" (and {d['left_out']} left out)" if d["left_out"] else ""
        age, coming = (f"{d[key]:.0f} s" if d[key] is not None else "-" for key in ("age_s", "next_look_s"))
        row = (pool["name"], f"{d['source']} {d['target']}", d["state"], f"{d['endpoints']}{more}", age, coming)
        table.add_row(*map(cell, (*row, d["error"] or "-")))
    return table


def _engines(pools: Sequence[dict[str, Any]]) -> Table:
    table = table_of("engine", "target", "state", "wanted", "number", "running", "scaled by", "notes")
    for pool in pools:
        e = pool["engine"]
        lease = e.get("lease")
        who = "this daemon" if e.get("leads", True) else (lease or {}).get("holder") or "nobody"
        notes = "; ".join(filter(None, (e.get("error"), e.get("held"), e.get("detail")))) or "-"
        number, running = ("-" if e.get(key) is None else e[key] for key in ("number", "running"))
        table.add_row(*map(cell, (pool["name"], e["target"], e["state"], e["wanted"], number, running, who, notes)))
        if e.get("on_demand") is not None:
            table.add_row(*map(cell, (f"{pool['name']} on demand", "", "", "", "", "", "", _on_demand(e["on_demand"]))))
        scaling = e["scaling"]
        if scaling is not None:
            limits = f"{scaling['min']} to {scaling['max']}: {scaling['reason']}"
            table.add_row(*map(cell, (f"{pool['name']} scaling", "", "", scaling["wanted"], "", "", "", limits)))
    return table


def _health(endpoint: dict[str, Any]) -> str:
    """Its health, and its ejection state if that is not good."""
    steering = endpoint.get("steering")
    health: str = endpoint["health"]
    if not steering or steering["ejection_state"] == "well":
        return health
    if steering["ejection_state"] == "probation":
        return f"{health}, on probation"
    return f"{health}, ejected for {steering['ejected_for_s']:g} s: {steering['reason']}"


def _managed(pools: Sequence[dict[str, Any]]) -> Table:
    table = table_of("model server", "pid", "state", "on", "restarts", "last error")
    for pool in pools:
        for kind, mark in (("replicas", ""), ("next", " (next)"), ("leaving", " (leaving)")):
            for r in pool["managed"][kind]:
                name = f"{pool['name']}/{r['index']}{mark}"
                row = (name, r["pid"] or "-", r["state"], _place(r), r["restarts"], r["last_error"] or "-")
                table.add_row(*map(cell, row))
        vertical = pool["managed"].get("vertical")
        if vertical is not None and vertical["needed"] is not None:
            text = f"{vertical['cores']} cores each, {vertical['advised'] or vertical['cores']} advised: "
            text += f"{vertical['needed']:.2f} needed, memory {vertical['memory'] / 2**20:.0f} MiB"
            if vertical["runs"] is not None:
                text += f"; batch {vertical['batch'] or '-'}, {vertical['instances'] or '-'} runs at once: "
                text += vertical["runs"]
            table.add_row(*map(cell, (f"{pool['name']} size", "", "", "", "", text)))
        demand = pool["managed"].get("on_demand")
        if demand is not None:
            table.add_row(*map(cell, (f"{pool['name']} on demand", "", "", "", "", _on_demand(demand))))
        scaling = pool["managed"]["scaling"]
        if scaling is not None:
            limits = f"{scaling['wanted']} wanted, {scaling['min']} to {scaling['max']}: {scaling['reason']}"
            table.add_row(*map(cell, (f"{pool['name']} scaling", "", "", "", "", limits)))
    return table


def _place(replica: dict[str, Any]) -> str:
    """The GPUs and cores that a server has for itself."""
    gpus = f"GPU {', '.join(replica['gpus'])}" if replica.get("gpus") else ""
    cores = f"cores {', '.join(map(str, replica['cores']))}" if replica.get("cores") else ""
    return "; ".join(filter(None, (gpus, cores))) or "-"


def _outputs(pools: Sequence[dict[str, Any]]) -> Iterator[Text]:
    """The last lines of servers that cannot start."""
    for pool in pools:
        for r in (*pool["managed"]["replicas"], *pool["managed"]["next"]):
            if r["state"] in ("backoff", "crash_loop") and r.get("output"):
                yield Text(f"{pool['name']}/{r['index']} wrote:", "bold")
                yield from (Text(f"  {line}") for line in r["output"][-_LINES:])


def _on_demand(demand: dict[str, Any]) -> str:
    """Whether a pool that goes to zero is there, and what the next request, or the next time without one, brings."""
    if demand["trouble"]:
        return str(demand["trouble"])
    if demand["asleep"]:
        takes = f", which took {demand['start_s']:.3g} s before" if demand["start_s"] else ""
        return f"at zero for {demand['since_s']:.0f} s: the next request starts a model server{takes}"
    return f"idle for {demand['idle_s']:.0f} s of {demand['idle_timeout_s']:g} s, then it goes to zero"


def table_of(*columns: str) -> Table:
    """A table without lines, as all commands print them."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def keep_whole(column: Column, addresses: Iterable[object]) -> None:
    """Keeps `addresses` in one piece on narrow terminals: operators copy them. Where there are long paths of Unix
    sockets they are folded, or nothing else had room."""
    column.no_wrap = all(cell_len(str(address)) <= _WHOLE for address in addresses)


def cell(value: object) -> Text:
    """A value, in colour where it is a state. Markup and control characters in it are shown, not obeyed."""
    text = plain(str(value))
    return Text(text, "green" if text in _GOOD else "red" if text in _BAD else "")
