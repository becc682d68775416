"""What a rule has learned, kept in a file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from lb.control.servers.scaling_memory import ScalingMemory, state_directory
from lb.scaling.rules.ray import Ray


class Learner(Ray):
    """A rule that keeps bytes, which have to begin with "k"."""

    def __init__(self, name: str = "learner", kept: bytes = b"") -> None:
        self.name = name
        self.kept = kept

    def memory(self) -> bytes:
        return self.kept

    def restore(self, memory: bytes) -> None:
        if not memory.startswith(b"k"):
            raise ValueError("no memory")
        self.kept = memory


def test_kept_over_a_restart(tmp_path: Path) -> None:
    assert not ScalingMemory("m", tmp_path).restore(Learner())
    ScalingMemory("m", tmp_path).save("learner", b"k\n1")
    heir = Learner()
    assert ScalingMemory("m", tmp_path).restore(heir)
    assert heir.kept == b"k\n1"
    assert [path.name for path in tmp_path.iterdir()] == ["scaling-m"]


def test_of_another_pool_or_rule_nothing_is_taken(tmp_path: Path) -> None:
    ScalingMemory("m", tmp_path).save("learner", b"k1")
    assert not ScalingMemory("n", tmp_path).restore(Learner())
    assert not ScalingMemory("m", tmp_path).restore(Learner("other"))


@pytest.mark.parametrize("content", [b"", b"\n", b"tidegate scaling 1 learner", b"tidegate scaling 1 learner\nx"])
def test_a_damaged_file_is_not_used(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scaling-m").write_bytes(content)
    heir = Learner()
    assert not ScalingMemory("m", tmp_path).restore(heir)
    assert heir.kept == b""


def test_written_only_when_it_has_changed(tmp_path: Path) -> None:
    memory = ScalingMemory("m", tmp_path)
    memory.save("learner", b"k1")
    (tmp_path / "scaling-m").unlink()
    memory.save("learner", b"k1")
    assert not list(tmp_path.iterdir())
    memory.save("learner", b"k2")
    assert (tmp_path / "scaling-m").read_bytes().endswith(b"\nk2")


def test_without_a_folder_it_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tidegate.scaling")
    memory = ScalingMemory("m", None)
    memory.save("learner", b"")
    assert caplog.messages == []  # there is nothing to lose
    memory.save("learner", b"k1")
    memory.save("learner", b"k2")
    assert len(caplog.messages) == 1
    assert "STATE_DIRECTORY" in caplog.messages[0]
    assert not memory.restore(Learner())
    assert memory.describe() is None


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    memory = ScalingMemory("m", tmp_path / "gone")
    memory.save("learner", b"k1")
    memory.save("learner", b"k2")
    assert len([m for m in caplog.messages if "cannot be written" in m]) == 1
    (tmp_path / "gone").mkdir()
    memory.save("learner", b"k2")
    assert (tmp_path / "gone" / "scaling-m").exists()


@pytest.mark.parametrize(("value", "folder"), [("/a", "/a"), ("/a:/b", "/a"), ("", None), (None, None)])
def test_the_folder_is_the_service_managers(monkeypatch: pytest.MonkeyPatch, value: Any, folder: Any) -> None:
    if value is None:
        monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    else:
        monkeypatch.setenv("STATE_DIRECTORY", value)
    assert state_directory() == (None if folder is None else Path(folder))
