"""The model cache: entries that processes share, graphs that are loaded from it, and what its operator sees."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import backend_models
import grpc
import numpy as np
import onnx
import pytest
from backend_process import ROOT, Backend, infer_request, until
from onnx import helper, numpy_helper

from backend.cache import commands
from backend.cache.device import cpu
from backend.cache.graphs import Graphs
from backend.cache.store import Origin, Store
from backend.cache.trials import Trials
from backend.native import NativeSession
from lb.cli.app import main
from lb.wire.services import INFERENCE, Stub

ORIGIN = Origin("test", "model", "1.0", "cpu", "here", {"a": "b"})
MIB = 1 << 20


def put(store: Store, origin: Origin = ORIGIN, size: int = 1000) -> None:
    with store.building(origin, "a model") as build:
        (build.folder / "data").write_bytes(b"x" * size)
        build.publish()


def other(number: int) -> Origin:
    return replace(ORIGIN, model=f"model {number}")


def has(store: Store, origin: Origin = ORIGIN) -> bool:
    with store.find(origin) as entry:
        return entry is not None


def left(store: Store) -> list[str]:
    """What is in the folders of builders."""
    return sorted(str(path) for name in ("work", "locks") for path in (store.root / name).glob("*"))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache", 10 * MIB)


# Entries.


def test_an_entry_is_found_by_all_that_it_was_built_from(store):
    assert not has(store)
    assert not store.root.exists()  # looking makes no folder
    put(store)
    with store.find(ORIGIN) as entry:
        assert entry.path("data").read_bytes() == b"x" * 1000
        assert (entry.name, entry.size, entry.origin) == ("a model", 1000, ORIGIN)
    for field in ("kind", "model", "runtime", "provider", "device"):
        assert not has(store, replace(ORIGIN, **{field: "another"}))
    assert not has(store, replace(ORIGIN, options={"a": "c"}))
    assert left(store) == []


def test_what_is_not_published_leaves_nothing(store):
    with store.building(ORIGIN, "a model") as build:
        (build.folder / "data").write_bytes(b"half")
    assert not has(store)
    assert left(store) == []


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "manifest", "another's"])
def test_a_damaged_entry_is_removed_with_a_line_in_the_log(store, caplog, damage):
    put(store)
    folder = store.entries()[0].folder
    data, manifest = folder / "data", folder / "manifest.json"
    if damage == "flip":
        data.chmod(0o644)
        status = data.stat()
        data.write_bytes(b"x" * 999 + b"y")
        os.utime(data, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a disk does that says nothing
    elif damage == "cut":
        os.truncate(data, 10)
    elif damage == "gone":
        data.unlink()
    elif damage == "manifest":
        manifest.write_text("{")
    else:
        manifest.write_text(manifest.read_text().replace('"here"', '"elsewhere"'))
    assert list(store.damage()) == [ORIGIN.key]
    caplog.set_level(logging.WARNING)
    assert not has(store)
    (line,) = caplog.messages
    assert "is damaged" in line
    assert "it is built anew" in line
    assert store.damage() == {}
    put(store)
    assert has(store)


def test_a_copy_of_the_cache_is_as_good(store, tmp_path):
    put(store)
    shutil.copytree(store.root, tmp_path / "copy")
    copy = Store(tmp_path / "copy", 10 * MIB)
    assert has(copy)
    assert copy.damage() == {}


def test_the_entries_used_last_stay(store, caplog):
    for number in range(3):
        put(store, other(number), 3 * MIB)
    for number in range(3):
        os.utime(store.root / "entries" / other(number).key / "manifest.json", (number, number))
    assert has(store, other(0))  # and so it is used
    put(store, other(3), 3 * MIB)
    assert [has(store, other(number)) for number in range(4)] == [True, False, True, True]
    put(store, other(4), 11 * MIB)
    assert not has(store, other(4))
    assert "is not kept: its 11534336 bytes are too many" in caplog.text
    assert left(store) == []


def test_an_entry_that_is_being_opened_stays(store):
    put(store, other(0), 6 * MIB)
    with store.find(other(0)) as entry:
        put(store, other(1), 6 * MIB)
        assert entry.path("data").stat().st_size == 6 * MIB
    store.collect()
    assert len(store.entries()) == 1


# Builders.

BUILDER = """
import os, sys, time
from pathlib import Path
from backend.cache.store import Origin, Store
from backend.cache.trials import Trials
store = Store(Path(sys.argv[1]), 10 << 20)
with store.building(Origin("test", "model", "1.0", "cpu", "here", {"a": "b"}), "a model") as build:
    (build.folder / "data").write_bytes(b"x" * 500)
    print(build.folder, flush=True)
    sys.stdin.read()
    (build.folder / "data").write_bytes(b"x" * 1000)
    build.publish()
"""


def builder(store: Store) -> subprocess.Popen[str]:
    """A process that has built half of an entry, and goes on when its input ends."""
    made = subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(store.root)], stdin=-1, stdout=-1, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert made.stdout.readline().strip()
    return made


def test_of_a_builder_that_is_killed_half_way_nothing_is_used(store, caplog):
    caplog.set_level(logging.INFO)
    with builder(store) as process:
        assert len(left(store)) == 2
        store.collect()  # nothing of one that lives
        assert len(left(store)) == 2
        process.kill()
    assert len(left(store)) == 2
    assert not has(store)
    put(store)
    assert has(store)
    assert left(store) == []
    assert "removing what a process left behind" in caplog.text


def test_an_entry_is_built_once(store, caplog):
    caplog.set_level(logging.INFO)

    def build() -> bool:
        with store.building(ORIGIN, "a model"):
            return has(store)

    with builder(store) as process, ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(build)
        until(lambda: "another process builds" in caplog.text, "it waits")
        assert not waiting.done()
        process.stdin.close()
        assert waiting.result(20)
    assert left(store) == []


# Graphs.


def convolutions(root: Path, side: int = 32) -> Path:
    random = np.random.default_rng(1)
    weights = [(random.standard_normal(shape) / 8).astype(np.float32) for shape in ((64, 3, 3, 3), (128, 64, 3, 3))]
    constants = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    return backend_models.save(
        root, "conv", nodes, [("x", "FP32", ("N", 3, side, side))],
        [("y", "FP32", ("N", 128, (side - 1) // 2, (side - 1) // 2))], initializers=constants,
    )  # fmt: skip


def multiplications(root: Path) -> Path:
    random = np.random.default_rng(2)
    weights = [(random.standard_normal((256, 256)) / 16).astype(np.float32) for _ in range(4)]
    nodes = []
    for i in range(4):
        nodes.append(helper.make_node("MatMul", [f"x{i}" if i else "x", f"w{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [f"x{i + 1}" if i < 3 else "y"]))
    constants = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    return backend_models.save(
        root, "dense", nodes, [("x", "FP32", ("batch", 256))], [("y", "FP32", ("batch", 256))], initializers=constants
    )


def embedding(root: Path) -> Path:
    return backend_models.deep(root, layers=20, rows=600)


@dataclass
class Cache:
    graphs: Graphs


def opened(path: Path, store: Store | None, worth: float = 0.0) -> NativeSession:
    return NativeSession(path, "model", ("cpu",), 1, None, None if store is None else Cache(Graphs(store, worth)))


def feeds(session: NativeSession) -> dict[str, np.ndarray]:
    (spec,) = session.inputs
    random = np.random.default_rng(3)
    shape = (5, *spec.shape[1:])
    if spec.datatype.name == "INT64":
        return {spec.name: random.integers(0, 600, shape)}
    return {spec.name: random.standard_normal(shape).astype(np.float32)}


@pytest.mark.parametrize("model", [convolutions, multiplications, embedding])
def test_a_model_of_the_cache_gives_what_it_gave(tmp_path, store, model):
    path = model(tmp_path)
    plain = opened(path, None)
    given = feeds(plain)
    (expected,) = plain.run(["y"], given)
    built = opened(path, store)
    (entry,) = store.entries()
    found = opened(path, store)
    assert [one.key for one in store.entries()] == [entry.key]
    for session in (built, found):
        assert (session.inputs, session.outputs, session.provider) == (plain.inputs, plain.outputs, plain.provider)
        assert np.array_equal(session.run(["y"], given)[0], expected)
    maps = Path("/proc/self/maps").read_text()
    assert maps.count(f"{entry.folder}/model.ort") >= 1
    store.remove(entry.key)  # which takes nothing from who has it
    assert np.array_equal(found.run(["y"], given)[0], expected)


def test_a_model_that_has_changed_is_another(tmp_path, store):
    path = embedding(tmp_path)
    opened(path, store)
    (path.parent / "warmup.json").write_text("{}")  # no part of it
    opened(path, store)
    assert len(store.entries()) == 1
    model = onnx.load(path)
    model.graph.node[-1].op_type = "Neg"
    onnx.save(model, path)
    changed = opened(path, store)
    assert len(store.entries()) == 2
    assert np.array_equal(changed.run(["y"], feeds(changed))[0], opened(path, None).run(["y"], feeds(changed))[0])


def test_external_data_is_part_of_a_model(tmp_path, store):
    path = embedding(tmp_path)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights", size_threshold=1024)
    first = opened(path, store)
    given = feeds(first)
    weights = path.parent / "weights"
    before = first.run(["y"], given)[0]
    weights.write_bytes(bytes(len(weights.read_bytes())))
    after = opened(path, store).run(["y"], given)[0]
    assert len(store.entries()) == 2
    assert not np.array_equal(before, after)


def test_a_large_model_is_read_once(tmp_path, monkeypatch):
    store = Store(tmp_path / "cache", 100 * MIB)
    path = backend_models.deep(tmp_path, layers=2, rows=18_000)
    os.utime(path, (time.time() - 10,) * 2)
    time.sleep(2.1)  # the time of its change is not the kernel's "now" any more
    opened(path, store)
    read = []
    monkeypatch.setattr("backend.cache.digests.digest_of", read.append)
    opened(path, store)
    assert read == []
    assert len(store.entries()) == 1


def test_models_that_load_fast_are_not_stored(tmp_path, store):
    opened(embedding(tmp_path), store, worth=60)
    assert not (store.root / "entries").exists()
    opened(backend_models.scale(tmp_path, 2, 1), store)  # nor looked for
    opened(embedding(tmp_path), Store(tmp_path / "small", 1000))  # nor is one that would have no room
    assert not store.root.exists()
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("fault", ["file", "full", "torn"])
def test_whatever_is_wrong_with_the_cache_the_model_is_loaded(tmp_path, store, caplog, monkeypatch, fault):
    path = embedding(tmp_path)
    if fault == "file":
        store.root.write_text("")
    elif fault == "full":
        monkeypatch.setattr("backend.cache.store._sealed", lambda path: os.posix_fallocate(-1, 0, 1))
    else:  # a file that ONNX Runtime cannot read, with the right digest
        opened(path, store)
        (entry,) = store.entries()
        store.remove(entry.key)
        with store.building(entry.origin, "torn") as build:
            (build.folder / "model.ort").write_bytes(b"torn")
            build.publish()
    session = opened(path, store)
    assert session.run(["y"], feeds(session))[0].shape == (5, 1, 256)
    assert "cannot be" in caplog.text or "no entry could be built" in caplog.text
    if fault == "torn":
        (entry,) = store.entries()
        assert entry.size > 256 << 10


def test_a_cpu_has_a_type():
    assert cpu().startswith(os.uname().machine)
    assert len(cpu().split()[-1]) == 16


# The server.


def infer(backend: Backend, *rows: int) -> np.ndarray:
    with grpc.insecure_channel(backend.targets[0]) as channel:
        indices = np.array(rows, "<i8").reshape(-1, 1)
        answer = Stub(channel, INFERENCE).ModelInfer(infer_request("deep", ("index", "INT64", indices)), timeout=30)
    return np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(-1, 256)


def test_servers_that_are_killed_as_they_build_leave_nothing_that_is_used(tmp_path, store):
    path = backend_models.deep(tmp_path / "models", rows=100_000)
    expected = opened(path, None).run(["y"], {"index": np.array([[7], [99]])})[0].reshape(-1, 256)
    arguments = ("--model-cache", str(store.root), "--threads", "1")
    with Backend(tmp_path / "models", *arguments) as backend:
        half = store.root / "work"
        until(lambda: any(file.stat().st_size for file in half.glob("*/model.ort")), "it builds")
        backend.signal(signal.SIGKILL)
        backend.wait()
        assert "ready" not in backend.log
    assert len(left(store)) == 2
    assert not (list((store.root / "entries").iterdir()))
    with Backend(tmp_path / "models", *arguments) as first, Backend(tmp_path / "models", *arguments) as second:
        for backend in (first.wait_ready(), second.wait_ready()):
            assert np.array_equal(infer(backend, 7, 99), expected)
        until(lambda: "optimised graph built in" in first.log + second.log, "no line of what was built")
        until(lambda: "removing what a process left behind" in first.log + second.log, "no line of what was removed")
        assert (first.log + second.log).count("optimised graph built in") == 1
        assert left(store) == []
        shared = [pages(backend.process.pid, "model.ort", "Shared_Clean") for backend in (first, second)]
        assert min(shared) > 4 * MIB  # of the pages that were read, which are not all of the table's
        assert [pages(backend.process.pid, "model.ort", "Private_Dirty") for backend in (first, second)] == [0, 0]


def pages(pid: int, name: str, kind: str) -> int:
    """Bytes of the pages of a mapped file that are of that kind."""
    total, inside = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            inside = words[-1].endswith(name)
        elif inside and words[0] == f"{kind}:":
            total += int(words[1]) * 1024
    return total


def test_a_server_may_do_without(tmp_path, monkeypatch):
    backend_models.deep(tmp_path / "models", rows=1000)
    monkeypatch.setenv("CACHE_DIRECTORY", f"{tmp_path}/cache:/nowhere")
    with Backend(tmp_path / "models", "--model-cache", "off") as backend:
        backend.wait_ready()
        assert not (tmp_path / "cache").exists()
    with Backend(tmp_path / "models") as backend:
        backend.wait_ready()
        kinds = {entry.origin.kind for entry in Store(tmp_path / "cache" / "models", MIB).entries()}
        assert "optimized-graph" in kinds


# Trials of batches.


CPU = "CPUExecutionProvider"


def tried(trials: Trials, path: Path, reason: str | None = None, provider: str = CPU, **options: str) -> list[str]:
    """Whether the trial, which gives `reason`, was run."""
    runs: list[str] = []

    def trial() -> str | None:
        runs.append("run")
        return reason

    given = trials.passed("model", path, "1.0", provider, {"threads": "1", **options}, trial)
    assert given == (reason if runs else None)
    return runs


def test_a_trial_that_was_passed_is_not_run_again(tmp_path, store, caplog):
    caplog.set_level(logging.INFO)
    path = embedding(tmp_path)
    trials = Trials(store, "", 0.0)
    assert tried(trials, path, "a row depends on the others") == ["run"]
    assert not store.root.exists()  # what failed may have failed for another reason than the model
    assert tried(trials, path) == ["run"]
    assert tried(Trials(store, "", 0.0), path) == []
    assert "its rows were tried in batches before: entry" in caplog.text
    assert tried(trials, path, threads="2") == ["run"]
    assert tried(trials, path, provider="CUDAExecutionProvider") == ["run"]
    assert tried(trials, path, provider="CUDAExecutionProvider") == ["run"]  # of a device that nobody knows
    model = onnx.load(path)
    model.graph.node[-1].op_type = "Neg"
    onnx.save(model, path)
    assert tried(trials, path) == ["run"]
    assert {entry.origin.kind for entry in store.entries()} == {"batch-trial"}
    assert left(store) == []


def test_a_short_trial_and_one_that_cannot_be_kept(tmp_path, store, caplog):
    path = embedding(tmp_path)
    for _ in range(2):
        assert tried(Trials(store, "", 60), path) == ["run"]
    store.root.write_text("")
    for _ in range(2):
        assert tried(Trials(store, "", 0.0), path) == ["run"]
    assert "cannot be" in caplog.text or "could not be kept" in caplog.text


def test_servers_of_one_model_try_its_batches_once(tmp_path, store):
    convolutions(tmp_path / "models", side=96)  # 5 billion multiplications
    logs = []
    for _ in range(2):
        with Backend(tmp_path / "models", "--model-cache", str(store.root), "--threads", "1") as backend:
            backend.wait_ready()
            assert "batches up to" in backend.log
            logs.append("its rows were tried in batches before" in backend.log)
    assert logs == [False, True]


# Its operator.


def cache(store: Store, *arguments: str) -> int:
    return commands.main([arguments[0], "--dir", str(store.root), *arguments[1:]])


def test_the_operator_lists_inspects_verifies_and_purges(store, capsys):
    assert cache(store, "list") == 0
    assert "0 entries, 0 B" in capsys.readouterr().out
    put(store, size=3000)
    put(store, other(1))
    assert cache(store, "list") == 0
    head, *rows, total = capsys.readouterr().out.splitlines()
    assert head.split() == ["entry", "model", "kind", "provider", "size", "built", "in", "used"]
    assert {row.split()[0] for row in rows} == {ORIGIN.key[:12], other(1).key[:12]}
    assert total.endswith("2 entries, 3.9 KiB")
    assert cache(store, "list", "--json") == 0
    assert {entry["key"] for entry in json.loads(capsys.readouterr().out)} == {ORIGIN.key, other(1).key}
    assert cache(store, "inspect", ORIGIN.key[:8]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["origin"]["options"] == {"a": "b"}
    assert document["files"] == {"data": 3000}
    assert cache(store, "verify") == 0
    data = store.root / "entries" / ORIGIN.key / "data"
    data.chmod(0o644)
    data.write_bytes(b"z" * 3000)
    assert cache(store, "verify") == 1
    assert f"{ORIGIN.key[:12]}: damaged: data has another digest" in capsys.readouterr().out
    assert cache(store, "purge") == 1
    assert cache(store, "purge", "no such") == 1
    assert cache(store, "purge", ORIGIN.key[:8]) == 0
    assert [entry.key for entry in store.entries()] == [other(1).key]
    (store.root / "entries" / "rubbish").mkdir()
    assert cache(store, "purge", "--all") == 0
    assert list((store.root / "entries").iterdir()) == []
    assert "no entries begin with 'no such'; expected one" in capsys.readouterr().err


def test_the_operator_sees_the_models_of_a_server(tmp_path, store, capsys):
    path = backend_models.deep(tmp_path / "models", rows=1000)
    (tmp_path / "models" / "broken" / "1").mkdir(parents=True)
    (tmp_path / "models" / "broken" / "1" / "model.onnx").write_text("torn")
    with Backend(tmp_path / "models", "--model-cache", str(store.root)) as backend:
        target = backend.wait_ready().targets[0]
        assert main(["models", "list", "--server", target, "--json"]) == 0
        broken, deep = json.loads(capsys.readouterr().out)
        assert main(["models", "list", "--server", target, "--server", "127.0.0.1:1"]) == 1
        said = capsys.readouterr()
    assert (deep["name"], deep["version"], deep["state"]) == ("deep", "1", "READY")
    assert (deep["provider"], deep["file_bytes"]) == ("CPUExecutionProvider", path.stat().st_size)
    assert (broken["name"], broken["state"], broken["provider"]) == ("broken", "UNAVAILABLE", "")
    assert "cannot load" in broken["reason"]
    assert [line.split()[1:4] for line in said.out.splitlines()[2:]] == [["deep", "1", "READY"]]
    assert "127.0.0.1:1: Connection refused" in said.err
