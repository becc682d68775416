from lb.config.plan.plan import CostPlan
from lb.shared.segment import Segment

class PoolCosts:
    unit: int
    learns: bool
    def __init__(self, plan: CostPlan, name: str, segment: Segment) -> None: ...
