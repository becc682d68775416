from lb.core.poller import Poller
from lb.core.stream import Address

class GrpcCall: ...

class GrpcChannel:
    address: Address
    active: int
    waiting: int
    ping_after: int
    ping_interval: int
    ping_timeout: int
    failures: int
    connects: int
    connect_failures: int
    started: int
    def __init__(self, poller: Poller, address: Address, connect_timeout_ns: int, max_reply: int) -> None: ...
    def stats(self) -> dict[str, int | str]: ...
    def close(self) -> None: ...
