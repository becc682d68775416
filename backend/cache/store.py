"""Entries on disk, shared by all processes of the machine.

    entries/KEY/           manifest.json and the files it lists; whole from the moment it is there, and not changed
    work/KEY.…/            an entry that is being built, or files of one process; locked while its process lives
    locks/KEY              held by who builds

KEY is the digest of what the entry was built from (`Origin`). An entry is built in `work` and renamed into `entries`
once all of it is on the disk, so a builder that dies leaves nothing that is found; locks are flock(2)'s, which end with
their process. Who opens an entry's files holds its folder's lock meanwhile; files that are open or mapped outlive their
entry. The entries used last are kept when there are more bytes than `limit`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

log = logging.getLogger("tidegate.backend.cache")

MANIFEST = "manifest.json"
_FORM = 1  # of manifests: another one is no entry of ours


class Damaged(Exception):
    """An entry is not what its manifest says, and how."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What an entry is built from: all that it depends on. `model` is the digest of the model's files, `runtime` the
    version of what builds, `device` that of what it is built for."""

    kind: str
    model: str
    runtime: str
    provider: str
    device: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as its manifest has it. `name` is what the model was called; `created` and `used` (s since 1970) say
    when it was built and used last, `build_seconds` in what time. `files` have their size in bytes."""

    key: str
    folder: Path
    origin: Origin
    name: str
    created: float
    build_seconds: float
    used: float
    files: Mapping[str, int]

    @property
    def size(self) -> int:
        return sum(self.files.values())

    def path(self, file: str) -> Path:
        return self.folder / file


class Store:
    """The cache in the folder `root`, which is made when something is stored. `limit` is in bytes. All methods raise
    OSError."""

    def __init__(self, root: Path, limit: int) -> None:
        self.root = root
        self.limit = limit

    def __repr__(self) -> str:
        return f"model cache {self.root}"

    @contextmanager
    def find(self, origin: Origin) -> Iterator[Entry | None]:
        """The entry of `origin`, which stays in place meanwhile; None where there is none. One that is damaged is
        removed, with a line in the log."""
        folder = self._entries / origin.key
        with _locked(folder, fcntl.LOCK_SH) as held:
            entry = self._sound(folder) if held else None
            if entry is not None:
                with suppress(PermissionError):  # a cache that may only be read
                    os.utime(folder / MANIFEST)
            yield entry

    @contextmanager
    def building(self, origin: Origin, name: str) -> Iterator[Build]:
        """For who builds the entry of `origin`, alone on this machine: another builder is waited for. Look with `find`
        before."""
        self._prepare()
        with self._only_builder(origin.key, name):
            self.collect()
            with self.work(origin.key) as folder:
                yield Build(self, origin, name, folder)

    @contextmanager
    def work(self, name: str) -> Iterator[Path]:
        """A folder of this process, removed at the end, or when the process has ended and the next one looks."""
        self._prepare()
        while True:
            folder = self.root / "work" / f"{name}.{secrets.token_hex(4)}"
            folder.mkdir()
            with _locked(folder, fcntl.LOCK_EX) as held:
                if not held:  # taken for rubbish in the moment before it was locked
                    continue
                try:
                    yield folder
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
                return

    def publish(self, build: Build) -> Entry | None:
        """What was built is an entry from now on. None: it is larger than the whole cache."""
        files = sorted(path for path in build.folder.rglob("*") if path.is_file())
        listed = {str(path.relative_to(build.folder)): _sealed(path) for path in files}
        size = sum(one["size"] for one in listed.values())
        if size > self.limit:
            log.warning("%s: the entry of %s is not kept: its %d bytes are too many", self, build.name, size)
            return None
        manifest = {
            "form": _FORM,
            "origin": asdict(build.origin),
            "name": build.name,
            "created": time.time(),
            "build_seconds": build.seconds,
            "files": listed,
        }
        _write(build.folder / MANIFEST, manifest)
        _sync(build.folder)
        target = self._entries / build.origin.key
        self.remove(build.origin.key)  # one with less in it
        os.rename(build.folder, target)
        _sync(self._entries)
        self.collect()
        return self._entry(target)

    def entries(self) -> list[Entry]:
        """Those whose manifest can be read, the one used last first."""
        found = []
        for folder in _folders(self._entries):
            with suppress(OSError, Damaged):
                found.append(self._entry(folder))
        return sorted(found, key=lambda entry: entry.used, reverse=True)

    def damage(self) -> dict[str, str]:
        """Reads every entry whole: what is wrong with those that are damaged, by key."""
        found = {}
        for folder in _folders(self._entries):
            with _locked(folder, fcntl.LOCK_SH) as held:
                if held:
                    try:
                        self._check(folder, trust=False)
                    except Damaged as error:
                        found[folder.name] = str(error)
        return found

    def remove(self, key: str) -> None:
        """The entry is gone; a process that has its files open keeps them."""
        rubbish = self.root / "work" / f"{key}.{secrets.token_hex(4)}"
        rubbish.parent.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            os.rename(self._entries / key, rubbish)
            shutil.rmtree(rubbish, ignore_errors=True)

    def collect(self) -> None:
        """Removes what dead processes have left, then the entries used longest ago, as far as there are too many bytes.
        Entries that are being opened stay."""
        for folder in _folders(self.root / "work"):
            with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB) as held:
                if held:
                    log.info("%s: removing what a process left behind: %s", self, folder.name)
                    shutil.rmtree(folder, ignore_errors=True)
        entries = self.entries()
        for folder in set(_folders(self._entries)) - {entry.folder for entry in entries}:
            log.warning("%s: removing %s, which is no entry", self, folder.name)
            self.remove(folder.name)
        size = sum(entry.size for entry in entries)
        for entry in reversed(entries):
            if size <= self.limit:
                break
            with _locked(entry.folder, fcntl.LOCK_EX | fcntl.LOCK_NB) as held:
                if held:
                    log.info("%s: no room: removing the entry of %s, used longest ago", self, entry.name)
                    self.remove(entry.key)
                    size -= entry.size

    # Within.

    @property
    def _entries(self) -> Path:
        return self.root / "entries"

    def _prepare(self) -> None:
        for name in ("entries", "work", "locks"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    @contextmanager
    def _only_builder(self, key: str, name: str) -> Iterator[None]:
        path = self.root / "locks" / key
        while True:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    log.info("%s: another process builds the entry of %s; waiting for it", self, name)
                    fcntl.flock(lock, fcntl.LOCK_EX)
                if not _is_at(lock, path):  # the builder before has removed it
                    continue
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return
            finally:
                os.close(lock)

    def _sound(self, folder: Path) -> Entry | None:
        try:
            self._check(folder, trust=True)
            return self._entry(folder)
        except Damaged as error:
            log.warning("%s: the entry %s is damaged (%s); it is built anew", self, folder.name[:12], error)
            self.remove(folder.name)
            return None

    def _entry(self, folder: Path) -> Entry:
        manifest = _manifest(folder)
        files = {name: int(one["size"]) for name, one in manifest["files"].items()}
        used = (folder / MANIFEST).stat().st_mtime
        return Entry(
            folder.name, folder, Origin(**manifest["origin"]), manifest["name"], manifest["created"],
            manifest["build_seconds"], used, files,
        )  # fmt: skip

    def _check(self, folder: Path, trust: bool) -> None:
        """Raises Damaged. `trust`: a file that nothing has touched since it was checked is not read."""
        manifest = _manifest(folder)
        for name, one in manifest["files"].items():
            path = folder / name
            try:
                stamp = _stamp(path.stat())
                if trust and stamp == one["stamp"]:
                    continue
                digest = digest_of(path)
            except OSError as error:
                raise Damaged(f"{name} cannot be read: {error.strerror}") from error
            if digest != one["sha256"]:
                raise Damaged(f"{name} has another digest than when it was built")
            if stamp != one["stamp"]:  # as in a copy of the cache: the digest is right, and is not taken again
                one["stamp"] = stamp
                with suppress(OSError):  # a cache that may only be read
                    _write(folder / MANIFEST, manifest)


@dataclass(slots=True)
class Build:
    """An entry that is being built in `folder`, and is thrown away unless it is published. `seconds` is what the
    building took."""

    store: Store
    origin: Origin
    name: str
    folder: Path
    seconds: float = 0.0

    def publish(self) -> Entry | None:
        """None: it is too large to be kept. Raises OSError."""
        return self.store.publish(self)


def digest_of(path: Path) -> str:
    """SHA-256. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        if manifest["form"] != _FORM or Origin(**manifest["origin"]).key != folder.name:
            raise Damaged("its manifest is another entry's")
        for one in manifest["files"].values():
            if one.keys() != {"size", "sha256", "stamp"}:
                raise Damaged("its manifest lacks something of a file")
        float(manifest["created"]), float(manifest["build_seconds"]), str(manifest["name"])
    except OSError as error:
        raise Damaged(f"its manifest cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"its manifest is none: {error}") from error
    return manifest


def _stamp(status: os.stat_result) -> list[int]:
    """What changes with every change of a file."""
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _sealed(path: Path) -> dict[str, Any]:
    """A file that was built is on the disk, and nobody writes to it any more: what a manifest says of it."""
    path.chmod(0o444)
    _sync(path)
    return {"size": path.stat().st_size, "sha256": digest_of(path), "stamp": _stamp(path.stat())}


def _write(path: Path, document: Any) -> None:
    """Replaces a file at once."""
    made = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    made.write_text(json.dumps(document, indent=1, sort_keys=True))
    _sync(made)
    os.replace(made, path)


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if path.is_dir())
    except FileNotFoundError:
        return []


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[bool]:
    """False: the folder is not there, or, where `how` says not to wait, somebody else has it."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(opened, how)
        except BlockingIOError:
            yield False
            return
        yield _is_at(opened, folder)
    finally:
        os.close(opened)


def _is_at(opened: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(opened)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)
