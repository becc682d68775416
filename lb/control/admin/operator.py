"""Who asks the admin API for a change: for the log, and for what is shown of the change."""

from __future__ import annotations

from aiohttp import web

from lb.control.admin.callers import Caller

CALLER = "caller"  # of a request that was let in
# What a client calls its user. Anybody with the token can write any name; the token's own name, where it has one, is in
# front of it. Who asks without either is known by address.
HEADER = "Tidegate-Operator"
_LONGEST = 64


def operator_of(request: web.Request) -> str:
    """Such as `night-shift: anna@gate1 (10.0.0.7)`; control characters of the name are left out."""
    caller: Caller | None = request.get(CALLER)
    token = caller.name if caller is not None and caller.is_named else ""
    name = "".join(c for c in request.headers.get(HEADER, "") if c.isprintable()).strip()[:_LONGEST]
    place = request.remote or "the admin socket"
    who = ": ".join(part for part in (token, name) if part)
    return f"{who} ({place})" if who else place
