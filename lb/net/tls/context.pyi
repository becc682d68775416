from collections.abc import Sequence

class TicketKeys:
    def __init__(self, keys: Sequence[bytes] = ()) -> None: ...
    def update(self, keys: Sequence[bytes]) -> None: ...

class ServerContext:
    client_auth: bool
    def __init__(
        self,
        certificates: Sequence[tuple[bytes, bytes, Sequence[str]]],
        tickets: TicketKeys,
        *,
        name: str = "",
        min_version: str = "tls1.2",
        ciphers: str = "",
        alpn: Sequence[str] = (),
        client_auth: str = "none",
        client_ca: bytes = b"",
        crl: bytes = b"",
        staples: Sequence[tuple[bytes, int]] = (),
        previous: ServerContext | None = None,
    ) -> None: ...
    def stats(self) -> dict[str, int]: ...

def check_ciphers(ciphers: str) -> None: ...
