"""The admin server beside the work of the master that it lives in."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lb.control.admin import server as admin
from lb.control.admin.server import AdminServer
from lb.control.master import Master


async def test_a_page_of_metrics_is_made_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    made: list[bool] = []

    def exposition(snapshot: Any) -> bytes:
        made.append(goes_on.wait(20))
        return b"page"

    monkeypatch.setattr(admin, "snapshot", lambda master, models: None)
    monkeypatch.setattr(admin, "exposition", exposition)
    server = AdminServer(cast(Master, None))
    asyncio.get_running_loop().call_soon(goes_on.set)
    assert (await server._metrics(cast(Any, SimpleNamespace(query={})))).body == b"page"
    assert made == [True]
