from typing import final

from lb.endpoints.set import EndpointSet

@final
class Choice:
    endpoints: EndpointSet
    now: int
    key: int
    exclude: int
    cost: int
    group: int
    charged: int

    def __init__(
        self,
        endpoints: EndpointSet,
        now: int = 0,
        key: int = 0,
        exclude: int = -1,
        *,
        cost: float = 1.0,
        models: int = 0,
        blocked: int = 0,
        group: int = -1,
    ) -> None: ...
    def available(self, i: int) -> bool: ...
    def weight(self, i: int) -> int: ...

    # Of the compiled class only: not there for callers in Python.
    def effective_weight(self, i: int) -> int: ...
    def open_weight(self, i: int) -> int: ...
    def state_weight(self, i: int) -> int: ...
