from collections.abc import Callable, Sequence

from lb.errors import UpstreamError
from lb.upstream.connections.http2 import Http2Channel

KINDS: dict[int, str]

class CallFailed(UpstreamError):
    kind: int
    def __init__(self, kind: int, address: str) -> None: ...

class PyCall:
    def __init__(self, parts: Sequence[bytes], told: Callable[[int, int, str, bytes], None]) -> None: ...
    def start(self, channel: Http2Channel, path: bytes, timeout: float | None = None) -> None: ...
    def cancel(self) -> None: ...

async def unary(
    channel: Http2Channel,
    path: bytes,
    message: bytes,
    timeout: float | None = None,  # noqa: ASYNC109
) -> tuple[int, str, bytes]: ...
