from typing import Any

from lb.config.plan.plan import PoolPlan
from lb.shared.segment import Segment

class UdpPool:
    def __init__(self, plan: PoolPlan, pool: Any, segment: Segment) -> None: ...
