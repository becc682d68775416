"""The files of the dashboard: HTML, style sheet and modules, as they are in the folder `dashboard` beside this one.

The pages get by without inline scripts and styles, other origins and HTML made of text; the policy holds the browser to
it, so that a name in a request or in the configuration cannot become code.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).with_name("dashboard")
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
# The paths they are served under; index.html is `/`.
FILES = {f"/dashboard/{file.name}": file for file in sorted(_FOLDER.iterdir()) if file.suffix in _KINDS}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


def page(path: str) -> tuple[bytes, str]:
    """The content and its type of `/` or of one of FILES. KeyError for another path."""
    file = FILES["/dashboard/index.html" if path == "/" else path]
    return file.read_bytes(), _KINDS[file.suffix]
