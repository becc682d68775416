from typing import Any

def parse(data: bytes) -> tuple[int, dict[str, Any]] | None: ...
def build(
    version: int,
    source: tuple[str, int] | None,
    target: tuple[str, int] | None,
    *,
    alpn: bytes = b"",
    authority: bytes = b"",
    unique_id: bytes = b"",
    ssl: bytes = b"",
    tlvs: bytes = b"",
    checksum: bool = False,
) -> bytes: ...
