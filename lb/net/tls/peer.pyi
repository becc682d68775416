from collections.abc import Sequence

class ClientContext:
    verify: bool
    server_name: str
    def __init__(
        self,
        *,
        ca: bytes = b"",
        crl: bytes = b"",
        certificate: bytes = b"",
        key: bytes = b"",
        server_name: str = "",
        min_version: str = "tls1.2",
        alpn: Sequence[str] = (),
        verify: bool = True,
    ) -> None: ...

class Peer:
    name: str
    def __init__(self, context: ClientContext, name: str, label: str = "") -> None: ...
