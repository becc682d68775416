"""The state that an endpoint's agent has reported. Each part stays in force until the agent reports it anew."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from lb.control.registry import DRAIN, ENABLED, MAINTENANCE
from lb.health.agent import Answer

_ADMIN = {"ready": ENABLED, "drain": DRAIN, "maint": MAINTENANCE}
_NAMES = {number: name for name, number in _ADMIN.items()}


class AgentState(Struct, frozen=True):
    """What an agent wants of its endpoint. None: it never spoke of that.

    `health` is up, down, fail or stopped, `admin` one of enum tg_admin, `percent` of the operator's or the
    configuration's weight, `max_in_flight` in place of the configuration's, 0: no limit.
    """

    health: str | None = None
    description: str = ""
    admin: int | None = None
    percent: int | None = None
    max_in_flight: int | None = None

    @property
    def down(self) -> bool:
        return self.health not in (None, "up")

    @property
    def limit(self) -> int | str:
        """`max_in_flight` for an operator to read."""
        return "configured" if self.max_in_flight is None else self.max_in_flight or "none"

    @property
    def reason(self) -> str:
        """Why its endpoint is what it is."""
        return f"its agent says {self.health or 'nothing'}" + (f": {self.description}" if self.description else "")

    def with_answer(self, answer: Answer) -> AgentState:
        """The state in force after `answer`. A description belongs to the health in the same answer."""
        state = self if answer.health is None else replace(self, health=answer.health, description=answer.description)
        return replace(
            state,
            admin=self.admin if answer.admin is None else _ADMIN[answer.admin],
            percent=self.percent if answer.percent is None else answer.percent,
            max_in_flight=self.max_in_flight if answer.maxconn is None else answer.maxconn,
        )

    def describe(self) -> dict[str, Any]:
        """As status shows them: in the agent's own terms."""
        return {
            "health": self.health,
            "description": self.description,
            "admin": None if self.admin is None else _NAMES[self.admin],
            "weight_percent": self.percent,
            "max_in_flight": self.max_in_flight,
        }


SILENT = AgentState()
