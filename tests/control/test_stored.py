"""What the service manager keeps over the end of a daemon: sockets, and the segment with the result cache."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from compiled.result_cache import Fill, get_bytes, put_bytes
from ports import free_port

from lb.cache import tags
from lb.cache.store import ResultCache
from lb.config.schema.file import Config
from lb.control.cache import kept, snapshot
from lb.control.sockets import SocketTable
from lb.control.stored_sockets import StoredSockets
from lb.control.systemd import LONGEST_NAME, Notifier, Stored, take_descriptors
from lb.errors import StartError
from lb.shared.segment import Segment

SECOND = 1_000_000_000
NOW = 1000 * SECOND
CONFIG = Config.model_validate({"listeners": {}, "pools": {"p": {"protocol": "oip", "endpoints": ["192.0.2.1:80"]}}})
MODELS = {"p": {"m": {b"1"}}}


class Store:
    """A DescriptorStore that keeps duplicates, and passes them to the next daemon."""

    stores = True

    def __init__(self) -> None:
        self.kept: dict[str, int] = {}
        self.barriers = 0

    def store(self, name: str, descriptor: int) -> bool:
        self.kept.setdefault(name, os.dup(descriptor))
        return True

    def forget(self, name: str) -> None:
        if name in self.kept:
            os.close(self.kept.pop(name))

    def barrier(self) -> None:
        self.barriers += 1

    def passed(self) -> list[Stored]:
        return [Stored(name, os.dup(fd)) for name, fd in self.kept.items()]


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    yield made
    for name in list(made.kept):
        made.forget(name)


def bind() -> str:
    return f"127.0.0.1:{free_port()}"


def table(store: Store) -> SocketTable:
    return SocketTable((), StoredSockets(store, store.passed()))


def listen(store: Store, binds: dict[str, str], datagrams: dict[str, int] | None = None) -> SocketTable:
    """The sockets of a daemon that starts."""
    made = table(store)
    made.close_unused(binds, datagrams or {}, [])
    made.commit(made.stage(binds, datagrams))
    return made


def inodes(made: SocketTable, name: str) -> list[int]:
    return [os.fstat(sock.fileno()).st_ino for sock in made[name].sockets]


def test_sockets_are_those_of_the_daemon_before(store: Store, tmp_path: Path) -> None:
    binds = {
        "web": bind(),
        "six": f"[::1]:{free_port()}",
        "local": f"unix:{tmp_path}/a b:c",
        "raw": bind(),
        "any": "127.0.0.1:0",
    }
    datagrams = {"raw": 3}
    first = listen(store, binds, datagrams)
    known = {name: inodes(first, name) for name in binds}
    assert len(store.kept) == 7
    assert not any(":" in name for name in store.kept)
    first.close()
    with socket.socket(socket.AF_UNIX) as client:  # it waits for the next daemon
        client.connect(f"{tmp_path}/a b:c")
        second = listen(store, binds, datagrams)
        assert second["local"].socket.accept()
    assert all(inodes(second, name) == known[name] for name in binds)
    assert store.barriers == 0
    second.close()


def test_sockets_that_nothing_uses_are_closed_before_others_are_opened(store: Store, tmp_path: Path) -> None:
    port = free_port()
    first = listen(
        store, {"web": f"0.0.0.0:{port}", "local": f"unix:{tmp_path}/s", "raw": f"127.0.0.1:{port}"}, {"raw": 2}
    )
    first.close()
    (tmp_path / "s").unlink()  # the path became another one's
    # In the way of all of them, would they be open.
    second = listen(
        store, {"web": f"127.0.0.1:{port}", "local": f"unix:{tmp_path}/s", "raw": f"127.0.0.1:{port}"}, {"raw": 3}
    )
    assert store.barriers == 1
    assert len(store.kept) == 5
    second.close()
    third = listen(store, {"raw": f"127.0.0.1:{port}"}, {"raw": 2})
    assert len(store.kept) == 2, "fewer workers"
    third.close()


def test_a_reload_lets_go_of_what_it_closes(store: Store, tmp_path: Path) -> None:
    made = listen(store, {"web": bind(), "local": f"unix:{tmp_path}/s"})
    made.commit(made.stage({}))
    assert not store.kept
    assert not (tmp_path / "s").exists()
    made.close()


def test_a_failed_start_leaves_what_is_stored(store: Store) -> None:
    web = bind()
    listen(store, {"web": web}).close()
    failed = table(store)
    with pytest.raises(StartError):
        failed.stage({"web": web, "bad": "192.0.2.1:80"})
    failed.close()
    assert len(store.kept) == 1
    again = listen(store, {"web": web})
    again.close()


def test_sockets_of_the_service_manager_are_not_stored(store: Store) -> None:
    passed = socket.create_server(("127.0.0.1", 0))
    made = SocketTable([passed], StoredSockets(store))
    made.commit(made.stage({"web": f"127.0.0.1:{passed.getsockname()[1]}"}))
    assert not store.kept
    made.close()


def test_what_is_told_to_the_manager(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, socket.socket() as kept_one:
        manager.bind(f"{tmp_path}/notify")
        environ = {"NOTIFY_SOCKET": f"{tmp_path}/notify", "FDSTORE": "8"}
        notifier = Notifier.from_environment(environ)
        assert not environ
        assert notifier.store("tidegate,x", kept_one.fileno())
        message, ancillary, _, _ = manager.recvmsg(4096, socket.CMSG_SPACE(4))
        assert message == b"FDSTORE=1\nFDNAME=tidegate,x\nFDPOLL=0"
        fds = array.array("i", ancillary[0][2])
        assert os.fstat(fds[0]).st_ino == os.fstat(kept_one.fileno()).st_ino
        os.close(fds[0])
        notifier.forget("tidegate,x")
        assert manager.recv(4096) == b"FDSTOREREMOVE=1\nFDNAME=tidegate,x"
        assert not notifier.store("x" * (LONGEST_NAME + 1), kept_one.fileno())
        notifier.close()
        assert not notifier.store("tidegate,x", kept_one.fileno())
        notifier.forget("tidegate,x")


@pytest.mark.parametrize("room", ["", "0", "many"])
def test_a_manager_without_room_is_told_nothing(room: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{tmp_path}/notify")
        manager.setblocking(False)
        notifier = Notifier.from_environment({"NOTIFY_SOCKET": f"{tmp_path}/notify", "FDSTORE": room})
        assert not notifier.store("tidegate,x", 0)
        notifier.forget("tidegate,x")
        notifier.barrier()
        with pytest.raises(BlockingIOError):
            manager.recv(4096)
        notifier.close()


def test_stored_descriptors_are_told_apart_from_those_of_socket_units(tmp_path: Path) -> None:
    """In a process of its own, where the descriptors have the numbers that the manager gives them."""
    pid = os.fork()
    if pid == 0:
        try:
            web, segment = socket.create_server(("127.0.0.1", 0)), os.memfd_create("segment")
            others = [os.dup2(web.fileno(), 100), os.dup2(segment, 101)]
            for number, fd in enumerate([others[0], others[1], others[0], others[1]]):
                os.dup2(fd, 3 + number)
            said = {
                "LISTEN_FDS": "4",
                "LISTEN_PID": str(os.getpid()),
                "LISTEN_FDNAMES": "tidegate.socket:tidegate,segment:tidegate,listen,tcp,x:else",
            }
            passed = take_descriptors(said)
            right = [s.fileno() for s in passed.sockets] == [3] and not said
            right = right and passed.stored == [Stored("tidegate,segment", 4), Stored("tidegate,listen,tcp,x", 5)]
            right = right and not any(os.get_inheritable(fd) for fd in (3, 4, 5))
            os._exit(0 if right else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


Make = Callable[[], ResultCache]


@pytest.fixture
def make() -> Iterator[Callable[..., ResultCache]]:
    segments = []

    def make(secret: bytes | None = None) -> ResultCache:
        segments.append(Segment.create(1, 1, 1, 1 << 20, cache_secret=secret))
        return ResultCache(segments[-1], 1 << 18)

    yield make
    for segment in segments:
        segment.close()


def put(cache: ResultCache, number: int, tag: str = "") -> bytes:
    """An answer of model m of pool p, or one without tags."""
    value = b"\x0a\x01m\x12\x011%d" % number if tag else b"plain"
    fill = Fill(cache, *(each.encode() for each in tags.of_answer("p", "m", ""))) if tag else None
    assert put_bytes(cache, number.to_bytes(32, "big"), value, NOW, 100 * SECOND, *([fill] if fill else [])) == 1
    return value


class PlanOfP:
    class Pool:
        name, protocol = "p", "oip"

    pools = (Pool(),)


async def test_answers_are_read_out_of_the_segment_of_the_daemon_before(
    make: Callable[..., ResultCache], store: Store
) -> None:
    before = make()
    value = put(before, 1, "tagged")
    put(before, 2)
    keeping = kept.Keeping(before.segment)
    keeping.note(CONFIG, before.slots, MODELS)
    keeping.store(store)
    keeping.close()
    found = kept.take(store.passed(), lambda: NOW + 10 * SECOND)
    assert found is not None
    after = make(found.head.secret)
    restoring: snapshot.Restoring[kept.Place] = snapshot.Restoring(found, after, lambda: NOW + 10 * SECOND)
    restoring.looked("p", MODELS["p"])
    await restoring.run(PlanOfP(), snapshot.pools_of(CONFIG))  # type: ignore[arg-type]
    found.close()
    assert restoring.restored == 2
    assert get_bytes(after, (1).to_bytes(32, "big"), NOW + 99 * SECOND) == value
    assert get_bytes(after, (2).to_bytes(32, "big"), NOW + 99 * SECOND) == b"plain"
    assert get_bytes(after, (1).to_bytes(32, "big"), NOW + 101 * SECOND) is None, "its time goes on"
    kept.forget(store.passed(), store)
    assert not store.kept


def test_what_is_of_no_use_is_said(
    make: Callable[..., ResultCache], store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    before = make()
    keeping = kept.Keeping(before.segment)
    keeping.store(store)
    assert kept.take(store.passed(), lambda: NOW) is None
    assert "begins empty" in caplog.text, "it was killed before it noted anything"
    caplog.clear()
    keeping.note(CONFIG, before.slots, MODELS)
    (byte,) = os.pread(store.kept[kept.FACTS], 1, 40)
    os.pwrite(store.kept[kept.FACTS], bytes([byte ^ 0xFF]), 40)
    assert kept.take(store.passed(), lambda: NOW) is None
    assert "begins empty" in caplog.text
    keeping.close()
    caplog.clear()
    other = kept.Keeping(make().segment)
    other.note(CONFIG, before.slots, MODELS)
    store.forget(kept.FACTS)
    store.store(kept.FACTS, other._fd)
    assert kept.take(store.passed(), lambda: NOW) is None
    assert "it is another segment's" in caplog.text
    other.close()
    caplog.clear()
    store.forget(kept.SEGMENT)
    file = os.memfd_create("no segment", os.MFD_ALLOW_SEALING)
    store.store(kept.SEGMENT, file)
    os.close(file)
    assert kept.take(store.passed(), lambda: NOW) is None
    assert "not a shared segment" in caplog.text
    store.forget(kept.FACTS)
    caplog.clear()
    assert kept.take(store.passed(), lambda: NOW) is None
    assert not caplog.text


def test_the_way_back_leaves_the_store_as_the_program_before_had_it(store: Store, tmp_path: Path) -> None:
    before = {"web": bind(), "local": f"unix:{tmp_path}/s", "raw": bind()}
    first = listen(store, before, {"raw": 2})
    _, handed = first.handed()
    copies = [(name, os.dup(fd)) for name, fd in handed]
    passed = [Stored(name, os.dup(fd)) for name, fd in handed]
    known = set(store.kept)
    second = SocketTable((), StoredSockets(store, passed))
    after, groups = {"web": before["web"], "new": bind()}, {"raw": 1}
    second.close_unused(after, {}, [])
    second.commit(second.stage({**after, "raw": bind()}, groups))
    assert set(store.kept) != known
    second.give_back([*copies, ("tidegate,segment", copies[0][1])])
    assert set(store.kept) == known
    assert {os.fstat(fd).st_ino for fd in store.kept.values()} == {os.fstat(fd).st_ino for _, fd in copies}
    for _, fd in copies:
        os.close(fd)
    second.close()
    first.close()
