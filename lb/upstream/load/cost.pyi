from lb.config.schema.pools.cost import CostPlan
from lb.shared.segment import Segment

class PoolCosts:
    unit: int
    learns: bool
    def __init__(self, plan: CostPlan, name: str, segment: Segment) -> None: ...
