from collections.abc import Mapping
from typing import Any, Protocol

class Exporter(Protocol):
    def record(self, record: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...

class AccessLog:
    enabled: bool
    writing: bool
    dropped: int
    write_errors: int
    def __init__(self, fd: int) -> None: ...
    def enable(self, on: bool) -> None: ...
    def export(self, exporter: Exporter | None) -> None: ...
    def close(self) -> None: ...
    def write_sample(
        self,
        trace_id: bytes = b"",
        span_id: bytes = b"",
        parent_id: bytes = b"",
        flags: int = 0,
        status: int = 200,
        grpc_status: int = -1,
        version: int = 11,
        tls: int = 0,
        texts: dict[str, str] | None = None,
        explanation: bytes | None = None,
    ) -> bool: ...
