"""`tidegate config`, `tidegate scale` and `tidegate certificates`: what operators change while the daemon runs, and the
running configuration."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from lb.cli.admin import AdminClient


def show(client: AdminClient, as_json: bool) -> int:
    """Prints the running configuration as YAML, its changes as comments in front. Raises AdminError."""
    found = client.config()
    if as_json:
        print(json.dumps(found, indent=2))
        return 0
    import yaml

    from lb.cli.status import changed

    print(f"# {found['path']}, as it was loaded last; comments are not kept, secrets are hidden")
    for change in found["changes"]:
        print(f"# changed at run time: {changed(change)}")
    print(yaml.safe_dump(found["config"], sort_keys=False, allow_unicode=True, width=120), end="")
    return 0


def diff(client: AdminClient, as_json: bool) -> int:
    """Prints what differs between the running configuration and the file on disk, and what operators have changed.
    Returns the exit status: 1 where there is any of it, or the file cannot be loaded. Raises AdminError."""
    found = client.config_diff()
    different = bool(found["differences"] or found["problems"] or found["changes"])
    if as_json:
        print(json.dumps(found, indent=2))
        return int(different)
    from lb.cli.status import changed

    if found["problems"]:
        print(f"{found['path']} cannot be loaded; the running configuration stays:")
        for problem in found["problems"]:
            print(f"  {problem}")
    if found["differences"]:
        print(f"a reload of {found['path']} would change:" if not found["problems"] else "the file says otherwise:")
        for row in found["differences"]:
            print(f"  {row['setting']}: running {_text(row['running'])}, file {_text(row['file'])}")
    for note in found["notes"]:
        print(f"needs a restart: {note}")
    for change in found["changes"]:
        print(f"changed at run time: {changed(change)}")
    if not different:
        print(f"the daemon runs what {found['path']} says")
    return int(different)


def _text(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)


def changes(client: AdminClient, as_json: bool) -> int:
    """Prints what operators have changed and is in force. Raises AdminError."""
    found = client.changes()
    if as_json:
        print(json.dumps(found, indent=2))
        return 0
    from lb.cli.status import changed

    for change in found:
        print(changed(change))
    if not found:
        print("nothing is changed: all is as the file that was loaded last says")
    return 0


def set_values(client: AdminClient, pairs: Sequence[tuple[str, Any]], dry_run: bool) -> int:
    """Gives settings other values, all or none. Raises AdminError."""
    return _show(client.change(dict(pairs), [], dry_run), dry_run)


def unset(client: AdminClient, names: Sequence[str], dry_run: bool) -> int:
    """Gives settings the file's values again. Raises AdminError."""
    return _show(client.change({}, list(names), dry_run), dry_run)


def settings(client: AdminClient) -> int:
    """Prints the settings that can be changed. Raises AdminError."""
    print("\n".join(client.settings()))
    return 0


def scale(client: AdminClient, pool: str, replicas: int | str, dry_run: bool) -> int:
    """Holds a pool to a number of model servers, or lets its scaling decide again. Raises AdminError."""
    return _show(client.scale(pool, replicas, dry_run), dry_run)


def _show(rows: Sequence[dict[str, Any]], dry_run: bool) -> int:
    for row in rows:
        was, now = ("none" if row[key] is None else row[key] for key in ("from", "to"))
        print(f"{'would change' if dry_run else 'changed'}: {row['setting']} from {was} to {now}")
    if not rows:
        print("nothing to change: it is so already")
    return 0


def certificates(document: dict[str, Any], as_json: bool) -> int:
    """Prints the certificates of a status document: 1 where one is not valid, or those on disk cannot be used."""
    tls = document["tls"]
    if as_json:
        print(json.dumps(tls, indent=2))
    else:
        from lb.cli.status import cell, printer, table_of

        table = table_of("owner", "names", "state", "ends", "in", "issuer", "file")
        for row in tls["certificates"]:
            ends = datetime.fromtimestamp(row["not_after"]).strftime("%Y-%m-%d %H:%M")
            names = ", ".join(row["names"]) or row["subject"]
            days = f"{row['expires_in_s'] / 86400:.3g} d"
            table.add_row(*map(cell, (row["owner"], names, row["state"], ends, days, row["issuer"], row["file"])))
        printer().print(table if tls["certificates"] else "no listener or pool has a certificate")
        for problem in tls["problems"]:
            print(f"changed files are not used: {problem}")
    return int(bool(tls["problems"]) or any(row["state"] != "valid" for row in tls["certificates"]))


def reload_certificates(client: AdminClient, dry_run: bool) -> int:
    """Takes certificates and maps into use that have changed on disk; 1 when they cannot be used. Raises AdminError."""
    found = client.reload_certificates(dry_run)
    for file in found["changed"]:
        print(f"{'would take' if dry_run else 'took'} the new certificate of {file}" if found["ok"] else file)
    for name in found["maps"] if found["ok"] else ():
        print(f"{'would take' if dry_run else 'took'} the new entries of maps.{name}")
    for problem in found["problems"]:
        print(f"not used: {problem}", file=sys.stderr)
    if found["ok"] and not found["changed"] and not found["maps"]:
        print("no certificate and no map has changed")
    return 0 if found["ok"] else 1
