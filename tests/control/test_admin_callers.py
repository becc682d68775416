"""Roles of the admin server's tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp.test_utils import make_mocked_request
from pydantic import ValidationError

from lb.config.schema.admin import AdminConfig
from lb.control.admin.callers import Audit, Caller, Callers
from lb.errors import StartError


def section(folder: Path, *roles: str, **settings: object) -> AdminConfig:
    tokens = []
    for role in roles:
        (folder / role).write_text(f"secret-{role}\n")
        tokens.append({"name": f"the-{role}", "role": role, "file": str(folder / role)})
    return AdminConfig.model_validate({"tokens": tokens, **settings})


def test_tokens_have_names_and_roles(tmp_path: Path) -> None:
    (tmp_path / "first").write_text("secret")
    config = section(tmp_path, "viewer", "operator", "admin", token_file=str(tmp_path / "first"))
    callers = Callers()
    callers.read(config)
    for role in ("viewer", "operator", "admin"):
        assert callers.find(config, f"Bearer secret-{role}") == Caller(f"the-{role}", role)  # type: ignore[arg-type]
    assert callers.find(config, "Bearer secret") == Caller("token", "admin")
    for field in ("", "Bearer", "Bearer ", "Bearer nobody", "Basic secret"):
        assert callers.find(config, field) is None


def test_without_any_token_all_are_local_and_with_named_ones_only_they_are(tmp_path: Path) -> None:
    callers = Callers()
    assert callers.find(AdminConfig(), "") == Caller("local", "admin")
    config = section(tmp_path, "viewer")
    assert callers.find(config, "") is None  # not read yet: nobody is let in without
    assert callers.find(config, "Bearer secret-viewer") == Caller("the-viewer", "viewer")
    (tmp_path / "viewer").write_text("changed, and longer")
    assert callers.find(config, "Bearer secret-viewer") is None
    assert callers.find(AdminConfig(), "") == Caller("local", "admin")


@pytest.mark.parametrize(
    ("role", "read", "operate", "reload"),
    [("viewer", True, False, False), ("operator", True, True, False), ("admin", True, True, True)],
)
def test_what_roles_may_do(role: str, read: bool, operate: bool, reload: bool) -> None:
    caller = Caller("a", role)  # type: ignore[arg-type]
    assert caller.may("GET", "/api/v1/status") is read
    assert caller.may("POST", "/api/v1/explain") is read
    for method, path in (("POST", "/api/v1/endpoint"), ("POST", "/api/v1/cache/purge"), ("DELETE", "/api/v1/jobs")):
        assert caller.may(method, path) is operate
    assert caller.may("POST", "/api/v1/reload") is reload
    assert caller.may("POST", "/api/v1/alerts/test") is reload


def test_what_a_configuration_may_not_say(tmp_path: Path) -> None:
    token = {"name": "a", "role": "viewer", "file": str(tmp_path / "none")}
    with pytest.raises(ValidationError, match="two have the same name"):
        AdminConfig.model_validate({"tokens": [token, token]})
    with pytest.raises(ValidationError, match="so token_file is needed"):
        AdminConfig.model_validate({"bind": "0.0.0.0:1"})
    config = AdminConfig.model_validate({"bind": "0.0.0.0:1", "tokens": [token]})
    with pytest.raises(StartError):
        Callers().read(config)


def test_a_flood_of_refusals_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tidegate.audit")
    now = 0.0
    audit = Audit(burst=3, pause=5.0, clock=lambda: now)
    asked = make_mocked_request("POST", "/api/v1/reload?" + "x" * 10_000)

    def lines() -> list[str]:
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    for _ in range(100):
        audit.record(None, asked, b"", 401)
    assert len(found := lines()) == 3
    assert max(map(len, found)) < 1000
    audit.record(Caller("a", "admin"), asked, b"", 200)  # who is known is never left out
    assert [line[:20] for line in lines()] == ["97 refusals of nobod", "a (admin) from unix:"]
    now = 10.0
    for _ in range(10):
        audit.record(None, asked, b"", 401)
    assert len(lines()) == 2
    audit.tell_left_out()
    audit.tell_left_out()
    assert lines() == ["8 refusals of nobody who is known are left out here"]
