"""The parts of the master that a publication changes."""

from __future__ import annotations

from msgspec import Struct

from lb.control.canary.keeper import Canaries
from lb.control.endpoints.discovered import DiscoveredPools
from lb.control.endpoints.inference_counts import InferenceCounts
from lb.control.endpoints.models import ModelReadiness
from lb.control.endpoints.server_calls import ServerCalls
from lb.control.endpoints.steering import Steering
from lb.control.engines.pools import EnginePools
from lb.control.logs import AccessLog
from lb.control.registry import Registry
from lb.control.servers.managed import ManagedPools
from lb.control.sockets import SocketTable
from lb.control.tables import TableKeeper
from lb.control.tickets import TicketRing
from lb.control.workers.fleet import Fleet
from lb.health.agents import AgentMonitor
from lb.health.load_reports import LoadReportMonitor
from lb.health.monitor import HealthMonitor
from lb.health.transitions import TransitionLog
from lb.shared.segment import Segment


class Parts(Struct, frozen=True):
    """They live as long as the master; the plan that they follow is the publisher's."""

    segment: Segment
    registry: Registry
    sockets: SocketTable
    access_log: AccessLog
    fleet: Fleet
    managed: ManagedPools
    discovered: DiscoveredPools
    monitor: HealthMonitor
    steering: Steering
    tickets: TicketRing
    models: ModelReadiness
    transitions: TransitionLog
    agents: AgentMonitor
    load_reports: LoadReportMonitor
    server_calls: ServerCalls
    counts: InferenceCounts
    engines: EnginePools
    canaries: Canaries
    tables: TableKeeper
