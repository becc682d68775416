"""Who asks the admin API for a change: for the log, and for what is shown of the change."""

from __future__ import annotations

from aiohttp import web

# What a client calls its user. Anybody with the token can write any name; who asks without one is known by address.
HEADER = "Tidegate-Operator"
_LONGEST = 64


def operator_of(request: web.Request) -> str:
    """Such as `anna@gate1 (10.0.0.7)`; control characters of the name are left out."""
    name = "".join(c for c in request.headers.get(HEADER, "") if c.isprintable()).strip()[:_LONGEST]
    place = request.remote or "the admin socket"
    return f"{name} ({place})" if name else place
