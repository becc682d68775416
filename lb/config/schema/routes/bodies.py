"""What answers of our own say of their bodies, and what no rule may say."""

from __future__ import annotations

from pathlib import Path

# A rule that touched these could change where a message ends, or who it is for (RFC 9110 section 7.6.1, RFC 9112
# section 6).
FRAMING = frozenset(
    (
        "connection", "content-length", "expect", "host", "http2-settings", "keep-alive", "proxy-connection", "te",
        "trailer", "transfer-encoding", "upgrade",
    )
)  # fmt: skip

# Of bodies in files: what pages and small resources are. Anything else is application/octet-stream.
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".htm": "text/html; charset=utf-8",
    ".ico": "image/vnd.microsoft.icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".pem": "application/x-pem-file",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".xml": "application/xml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}


def content_type(file: Path) -> str:
    """The type of the body in a file, by the suffix of its name; without one it is text."""
    suffix = file.suffix.lower()
    return _TYPES.get(suffix or ".txt", "application/octet-stream")
