class Http2Channel:
    address: object  # lb.net.address.Address
    active: int
    waiting: int
    ping_after: int
    ping_interval: int
    ping_timeout: int
    failures: int
    connects: int
    connect_failures: int
    started: int
    def __init__(self, poller: object, address: object, connect_timeout_ns: int, max_reply: int) -> None: ...
    def stats(self) -> dict[str, int | str]: ...
    def close(self) -> None: ...
