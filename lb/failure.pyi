from typing import NamedTuple

class Failure(NamedTuple):
    kind: int
    name: str
    fault: str
    status: int
    grpc_status: int
    reason: str
    counter: str
    retry: tuple[str, ...]

ALL: tuple[Failure, ...]
BY_NAME: dict[str, Failure]

def grpc_to_http(status: int) -> int: ...
def grpc_faults() -> list[int]: ...
