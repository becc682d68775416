"""`tidegate jobs`: the jobs of a running daemon, looked at, queued anew and cancelled."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from lb.cli.admin import AdminClient, AdminError
from lb.cli.status import cell, table_of

_ALL = 10_000  # dead letters that are queued anew at once


def show(client: AdminClient, state: str | None, last: int, as_json: bool, console: Console | None = None) -> None:
    """Prints the last jobs, newest first. Raises AdminError."""
    found = client.jobs(state, last)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    console = console or Console(highlight=False, width=None if sys.stdout.isatty() else 400)
    table = table_of("job", "state", "route", "tenant", "accepted", "attempts", "status", "failure")
    for job in found:
        names = ("id", "state", "route", "tenant", "created", "attempts", "status", "failure")
        table.add_row(*(cell("-" if job[name] is None else job[name]) for name in names))
    console.print(table if found else Text("no jobs"))


def change(client: AdminClient, action: str, jobs: Sequence[str], everything: bool = False) -> int:
    """Queues dead letters anew (`retry`), or cancels jobs (`cancel`), and says so; the exit status: 1 where one could
    not be. `everything` is each dead letter. Raises AdminError when the daemon cannot be asked."""
    wanted = [job["id"] for job in client.jobs("dead", _ALL)] if everything else list(jobs)
    if not wanted and not everything:
        raise AdminError("say which: the id of a job, or --all")
    failed = 0
    for job in wanted:
        try:
            print(f"{job}: {client.change_job(job, action)['state']}")
        except AdminError as error:
            print(f"{job}: {error}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0
