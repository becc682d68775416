"""Text files that a configuration names, begun by an editor with the byte order mark of UTF-8."""

from __future__ import annotations

from codecs import BOM_UTF8
from pathlib import Path

from lb.cli.token import read_token
from lb.config.environment import Sources, expanded
from lb.config.schema.file import Config
from lb.control.admin.token import AdminToken
from lb.control.certificates import TlsFiles
from lb.jobs.link import _read as read_password


def marked(path: Path, text: str) -> str:
    path.write_bytes(BOM_UTF8 + text.encode())
    return str(path)


def plain(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_lists_and_maps_are_read_without_it_and_pages_go_out_with_it(tmp_path: Path) -> None:
    found = []
    for write in (plain, marked):
        folder = tmp_path / write.__name__
        folder.mkdir()
        key = expanded("${request.host}", Sources({}, folder), [])
        pages = [{"on": ["404"], "file": write(folder / "page.html", "<p>none</p>")}]
        routes = [{"match": {"path": {"exact": "/"}}, "respond": {"file": write(folder / "robots.txt", "all")}}]
        listener = {
            "bind": "127.0.0.1:0",
            "protocol": "http",
            "deny_file": write(folder / "deny.txt", "10.0.0.0/8\n"),
            "error_pages": pages,
            "routes": routes,
        }
        maps = {"tenants": {"key": key, "file": write(folder / "tenants.map", "# tenants\na.org one\n")}}
        maps["listed"] = {"key": key, "file": write(folder / "listed", "a.org\n")}
        files = TlsFiles()
        assert files.check(Config.model_validate({"listeners": {"web": listener}, "maps": maps})) == []
        found.append(files.material)
    without, with_mark = found
    assert with_mark.maps == without.maps
    assert with_mark.sources == without.sources
    assert {path.name: content.startswith(BOM_UTF8) for path, content in with_mark.files.items()} == {
        "page.html": True,
        "robots.txt": True,
    }


def test_secrets_and_values_are_read_without_it(tmp_path: Path) -> None:
    path = Path(marked(tmp_path / "secret", "s3cret\n"))
    token = AdminToken()
    token.read(path)
    assert token.admits(path, "Bearer s3cret")
    assert read_token(path, "--token-file").value == b"s3cret"
    assert expanded("${file:secret}", Sources({}, tmp_path), []) == "s3cret"
    assert read_password(str(path)) == "s3cret"
