"""`tidegate check` of the file that a daemon runs: the daemon's own addresses are no news, those of others are."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
from daemon import Daemon, environment
from ports import free_port

from lb.cli import own_daemon
from lb.cli.own_daemon import OwnDaemon
from lb.config.address import parse_socket
from lb.config.schema.admin import AdminConfig

Start = Callable[..., Daemon]


def configuration(folder: Path) -> dict[str, Any]:
    """Listeners on addresses of each kind."""
    own = {"respond": {"status": 200}}
    pools = {
        "t": {"protocol": "tcp", "endpoints": ["127.0.0.1:9"]},
        "u": {"protocol": "udp", "endpoints": ["127.0.0.1:9"]},
    }
    port = free_port()
    return {
        "listeners": {
            "web": {"bind": [f"127.0.0.1:{port}", f"[::1]:{port}"], "protocol": "http", "routes": [own]},
            "path": {"bind": f"unix:{folder}/web.sock", "protocol": "http", "routes": [own]},
            "name": {"bind": f"unix:@{folder.name}-{port}", "protocol": "http", "routes": [own]},
            "tcp": {"bind": f"127.0.0.1:{free_port()}", "protocol": "tcp", "pool": "t"},
            "udp": {"bind": f"127.0.0.1:{free_port()}", "protocol": "udp", "pool": "u"},
        },
        "pools": pools,
    }


def warned(daemon: Daemon, path: Path | None = None) -> list[str]:
    """The places that `tidegate check` warns of."""
    done = forked.run(["check", "-c", str(path or daemon.path)], env=environment(), check=True)
    return [line.split(": ")[1] for line in done.stderr.splitlines()]


def test_a_check_of_the_running_file_says_nothing_of_its_own_addresses(start: Start, tmp_path: Path) -> None:
    config = configuration(tmp_path)
    daemon = start(config)
    assert warned(daemon) == []
    # Of another file they are what keeps it from starting.
    copy = tmp_path / "copy.yaml"
    copy.write_text(daemon.path.read_text())
    every = [
        "admin.bind",
        *("listeners.web.bind",) * 2,
        *(f"listeners.{name}.bind" for name in ("path", "name", "tcp", "udp")),
    ]
    assert sorted(warned(daemon, copy)) == sorted(every)
    # An address of somebody else is one here, too.
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        more = {"bind": bind, "protocol": "http", "routes": [{"respond": {"status": 200}}]}
        daemon.write({**config, "listeners": {**config["listeners"], "more": more}})
        assert warned(daemon) == ["listeners.more.bind"]


def test_it_is_known_without_its_admin_server(start: Start, tmp_path: Path) -> None:
    """As the file names another address for that by now, or a token that the daemon does not have."""
    config = configuration(tmp_path)
    daemon = start(config)
    (tmp_path / "token").write_text("secret-that-is-long-enough-for-all\n")
    for admin in ({"bind": f"127.0.0.1:{free_port()}"}, {"bind": f"unix:{tmp_path}/gone.sock"}):
        daemon.write({**config, "admin": admin})
        assert warned(daemon) == []


def test_it_is_known_by_its_token(start: Start, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "token").write_text("secret-that-is-long-enough-for-all\n")
    config = configuration(tmp_path)
    tokens = [{"name": "v", "role": "viewer", "file": f"{tmp_path}/token"}]
    for number, section in enumerate(({"token_file": f"{tmp_path}/token"}, {"tokens": tokens})):
        bind = f"unix:{tmp_path}/daemon{number}/admin.sock"
        daemon = start({**config, "admin": {"bind": bind, **section}})
        own = OwnDaemon(daemon.path)
        monkeypatch.setattr(own_daemon, "_TITLE", "no process is called so")
        admin = AdminConfig.model_validate({"bind": bind, **section})
        text = config["listeners"]["tcp"]["bind"]
        assert own.has(admin, text, parse_socket(text), False), section
        assert not own.has(admin, text, parse_socket(text), True), section
        daemon.stop()


def test_a_file_written_over_is_reloaded(start: Start) -> None:
    """What `tidegate init` says next, and that it does not warn of the addresses that the daemon has."""
    port = free_port()
    listener = {"bind": f"127.0.0.1:{port}", "protocol": "http", "routes": [{"respond": {"status": 200}}]}
    daemon = start({"listeners": {"web": listener}})
    answers = ["--kind", "http", "--endpoints", "127.0.0.1:9", "--listen", f"127.0.0.1:{port}", "--yes", "--force"]
    for admin in (f"unix:{daemon.socket}", f"127.0.0.1:{free_port()}"):
        command = ["init", str(daemon.path), *answers, "--admin", admin]
        done = forked.run(command, env=environment(), check=True)
        assert done.stdout.splitlines()[-1] == f"  tidegate reload -c {daemon.path}"
        assert done.stderr == ""
