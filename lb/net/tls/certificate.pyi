class CertificateInfo:
    subject: str
    issuer: str
    dns: list[str]
    uris: list[str]
    not_before: int
    not_after: int
    fingerprint: str

def inspect(chain: bytes, key: bytes | None = None) -> CertificateInfo: ...
def count_authorities(pem: bytes) -> int: ...
