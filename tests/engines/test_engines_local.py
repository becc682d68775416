"""The engine `local`, over a supervisor with real processes."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from engine_contract import EngineContract
from waiting import until

sys.path.insert(0, str(Path(__file__).parents[1] / "discovery"))
sys.path.insert(0, str(Path(__file__).parents[1] / "control"))

from discovery_pools import pool
from machine import machine

from lb.clock import MonotonicClock
from lb.config.schema.file import ServeConfig
from lb.control.servers.local_engine import LocalEngine
from lb.control.servers.supervisor import Supervisor

STANDIN = Path(__file__).parents[1] / "control" / "standin_model_server.py"


class TestLocal(EngineContract):
    @pytest.fixture(autouse=True)
    async def _world(self, tmp_path: Path) -> AsyncIterator[None]:
        with machine() as around:
            self.supervisor = Supervisor(
                "chat",
                ServeConfig.model_validate({"models": tmp_path, "min": 2, "drain_timeout": "5s"}),
                runtime_dir=tmp_path / "run",
                on_change=lambda: None,
                on_exit=lambda address: None,
                inflight=lambda address: 0,
                clock=MonotonicClock(),
                machine=around,
                command=lambda serve, listen: [sys.executable, str(STANDIN), "--listen", listen],
            )
            yield
            self.supervisor.kill()
            await self.supervisor.stop()

    async def build(self) -> LocalEngine:
        await self.supervisor.start()
        return LocalEngine("chat", pool(), self.supervisor)

    async def number(self) -> int:
        return self.supervisor.wanted

    async def set_number(self, number: int) -> None:
        self.supervisor.scale_to(number)

    async def test_running_are_those_that_are_ready(self) -> None:
        engine = await self.build()
        assert engine.seen().running == 0
        await until(lambda: engine.seen().running == 2)
        assert engine.status()["running"] == 2
