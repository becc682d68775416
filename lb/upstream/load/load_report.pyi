from typing import NamedTuple

class LoadReport(NamedTuple):
    utilization: float
    qps: float
    eps: float
    rif: float
    latency_ms: float

def parse(name: bytes, value: bytes) -> LoadReport | None: ...
