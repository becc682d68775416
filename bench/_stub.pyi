def serve(
    listener: int,
    fixed: bytes | None,
    max_streams: int,
    streamed: bytes | None = None,
    stream_messages: int = 0,
    http: bytes | None = None,
) -> None: ...
def served() -> int: ...
