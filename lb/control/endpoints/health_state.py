"""The health state of endpoints, by their checks, by operators and by the endpoints' agents.

Each change takes effect in all workers at once, through the shared segment; only what is part of the plan (a limit that
an agent asks for) needs one to be published.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec.structs import replace

from lb.clock import Clock
from lb.config.plan.plan import Plan
from lb.config.schema.file import Config
from lb.control.endpoints.agent_state import SILENT, AgentState
from lb.control.endpoints.lookup import find_endpoint
from lb.control.parts import Parts
from lb.control.registry import ADMIN, ENABLED, HEALTH, MAINTENANCE, UP, Advice
from lb.health.agent import Answer
from lb.health.agents import AgentTarget

log = logging.getLogger("tidegate.master")


class HealthStates:
    """`in_force` gives the configuration and the plan of now. `recheck` is called when other endpoints than before are
    to be checked, `changed` when a plan has to be published. Everything on the loop."""

    def __init__(
        self,
        parts: Parts,
        in_force: Callable[[], tuple[Config, Plan | None]],
        recheck: Callable[[], None],
        changed: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._parts = parts
        self._in_force = in_force
        self._recheck = recheck
        self._changed = changed
        self._clock = clock
        self._agents: dict[int, AgentState] = {}  # by slot
        self._held: dict[int, bool] = {}  # slots that an agent holds down -> whether they are up but for that

    def endpoint_exited(self, pool: str, address: str) -> None:
        """The process behind an endpoint is gone: no worker sends it anything from this moment on."""
        slot = self._parts.registry.slot(pool, address)
        if slot is not None:
            self.judge(pool, address, slot, False, "its process exited")

    def up_by_checks(self, slot: int) -> bool:
        """Whether an endpoint is taken for up, but for an agent that holds it down."""
        return self._held.get(slot, self._parts.segment.health(slot) == UP)

    def held_down(self, slot: int) -> bool:
        """Whether the endpoint's agent keeps it down, whatever its checks say."""
        return slot in self._held

    def judge(self, pool: str, address: str, slot: int, up: bool, reason: str) -> None:
        """What an endpoint is taken for from this moment on, in all workers, and why. One that its agent holds down is
        taken for it when the agent lets go; one that has missed server calls comes up when it was told them."""
        if slot in self._held:
            self._held[slot] = up
            return
        if not up:
            self._parts.server_calls.fell(pool, address)
        elif self._parts.segment.health(slot) != UP and self._parts.server_calls.hold(
            pool, address, lambda: self._told(pool, address, slot, reason)
        ):
            return
        self._set_health(pool, address, slot, up, reason)

    def _told(self, pool: str, address: str, slot: int, reason: str) -> None:
        """An endpoint that was to come up has been told what it missed."""
        if self._parts.registry.slot(pool, address) == slot:
            self._set_health(pool, address, slot, True, reason)

    def _set_health(self, pool: str, address: str, slot: int, up: bool, reason: str) -> None:
        before = HEALTH.get(self._parts.segment.health(slot), "unknown")
        self._parts.segment.set_health(slot, up, self._clock.now())
        self._parts.steering.health_changed(pool)
        self._parts.transitions.add(pool, address, "health", before, "up" if up else "down", reason)

    def operate(self, pool: str, address: str, admin: int | None, weight: int | str | None) -> None:
        """An operator's word on an endpoint: its state (enum tg_admin) and its weight ("default": the configuration's);
        None leaves as it is. Raises ConfigError when there is no such pool or endpoint."""
        slot = find_endpoint(self._in_force()[1], pool, address).slot
        segment, transitions = self._parts.segment, self._parts.transitions
        before = ADMIN.get(segment.admin(slot)), segment.weight(slot)
        if admin is not None:
            if self._parts.registry.in_maintenance(slot) and admin != MAINTENANCE:
                self._begin_anew(pool, address, slot)
            self._parts.registry.operate(slot, admin)
        if weight is not None:
            self._parts.registry.operate_weight(slot, weight if isinstance(weight, int) else None)
        transitions.add(pool, address, "admin", before[0], ADMIN.get(segment.admin(slot)), "an operator")
        transitions.add(pool, address, "weight", before[1], segment.weight(slot), "an operator")
        if admin is not None:
            self._recheck()
        self._parts.steering.look()

    def agent_told(self, target: AgentTarget, answer: Answer) -> None:
        """An agent's word on its endpoint; what it does not speak of stays as it was."""
        self._heed(target, self.agent_state(target.slot).with_answer(answer), "its agent")

    def agent_gone(self, target: AgentTarget) -> None:
        """Forgets the state of an agent that is no longer asked."""
        self._heed(target, SILENT, "its agent is no longer asked")

    def agent_state(self, slot: int) -> AgentState:
        """The state that the endpoint's agent has reported so far."""
        return self._agents.get(slot, SILENT)

    def _heed(self, target: AgentTarget, state: AgentState, who: str) -> None:
        pool, address, slot = target.pool, target.address, target.slot
        before = self.agent_state(slot)
        if state == SILENT:
            self._agents.pop(slot, None)
        else:
            self._agents[slot] = state
        if replace(state, description=before.description) == before:
            return
        segment, registry, transitions = self._parts.segment, self._parts.registry, self._parts.transitions
        was, maintained = (ADMIN.get(segment.admin(slot)), segment.weight(slot)), registry.in_maintenance(slot)
        # As HAProxy: first the state and the weight, then the health.
        registry.advise(slot, Advice(state.admin or ENABLED, 100 if state.percent is None else state.percent))
        now = ADMIN.get(segment.admin(slot)), segment.weight(slot)
        transitions.add(pool, address, "admin", was[0], now[0], who)
        transitions.add(pool, address, "weight", was[1], now[1], who)
        if maintained != registry.in_maintenance(slot):
            if maintained:
                self._begin_anew(pool, address, slot)
            self._recheck()
        self._hold(target, state, before)
        if state.max_in_flight != before.max_in_flight:
            transitions.add(pool, address, "max_in_flight", before.limit, state.limit, who)
            self._changed()  # the limit is the plan's
        log.info("pool %s: endpoint %s: %s: %s", pool, address, who, _said(state, now[1]))
        self._parts.steering.look()

    def _hold(self, target: AgentTarget, state: AgentState, before: AgentState) -> None:
        """Keeps an endpoint down while its agent says so; then it is what its checks say."""
        pool, address, slot = target.pool, target.address, target.slot
        if state.down and slot not in self._held:
            up = self._parts.segment.health(slot) == UP or self._parts.server_calls.holding(pool, address)
            self.judge(pool, address, slot, False, state.reason)
            self._held[slot] = up
        elif before.down and not state.down:
            up = self._held.pop(slot)
            said = state.reason if state.health else "its agent is no longer asked"
            self.judge(pool, address, slot, up, said if up else f"{said}, but its checks fail")

    def _begin_anew(self, pool: str, address: str, slot: int) -> None:
        """After maintenance an endpoint counts as a new one until its first checks."""
        known = self._in_force()[0].pools.get(pool)  # None: its agent lets go of what was just removed
        health = known.health if known is not None else None
        reason = "maintenance is over; it has not been checked yet"
        if known is not None and self._parts.server_calls.remembers(pool):
            self.judge(pool, address, slot, False, reason)
            if health is None:
                self.judge(pool, address, slot, True, reason)
        if health is not None:
            self.judge(pool, address, slot, health.initial == "up", reason)

    def trust_unchecked(self, plan: Plan, config: Config, alive: Callable[[str, str], bool]) -> None:
        """An endpoint without active checks counts as up, whatever was found while it had some; one whose
        process is not `alive` does not."""
        for pool in plan.pools:
            if config.pools[pool.name].health is not None:
                continue
            for endpoint in pool.endpoints:
                up = self._parts.segment.health(endpoint.slot) == UP
                if not up and alive(pool.name, endpoint.address):
                    self.judge(pool.name, endpoint.address, endpoint.slot, True, "nothing checks it")


def _said(state: AgentState, weight: int) -> str:
    """An agent's state for the log."""
    said = [f"{key} {value}" for key, value in state.describe().items() if value not in (None, "")]
    return ", ".join([*said, f"its weight is {weight}"])
