from lb.config.plan import ListenerPlan

class Forwarding:
    def __init__(self, plan: ListenerPlan) -> None: ...

def forward(
    plan: ListenerPlan, head: bytes, peer: str = "192.0.2.1", scheme: str = "http", version: int = 11
) -> tuple[list[tuple[bytes, bytes]], bytes, list[bytes], str]: ...
