"""A file as a source."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from discovery_pools import addresses, file, pool
from source_contract import SourceContract

from lb.config.plan.plan import EndpointSpec
from lb.config.units import MILLISECOND, SECOND
from lb.discovery.file import FileSource
from lb.discovery.source import DiscoveryError


def lookup(host: str) -> list[str]:
    return {"a.test": ["10.0.0.1", "10.0.0.2"]}[host] if host == "a.test" else no_such(host)


def no_such(host: str) -> list[str]:
    raise OSError(-2, "Name or service not known")


def source(path: Path, **settings: Any) -> FileSource:
    return FileSource("models", file(path=path), pool(**settings), lookup)


def replace(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.rename(path)


async def failure(asked: FileSource) -> str:
    with pytest.raises(DiscoveryError) as caught:
        await asked.look()
    return str(caught.value)


class TestContract(SourceContract):
    @pytest.fixture(autouse=True)
    def _path(self, tmp_path: Path) -> None:
        self.path = tmp_path / "endpoints.yaml"

    def build(self) -> FileSource:
        return source(self.path)

    def put(self, hosts: list[str]) -> None:
        replace(self.path, json.dumps([f"{host}:9001" for host in hosts]))

    def damage(self) -> None:
        replace(self.path, '["127.0.0.1:9001", "127.0')


@pytest.mark.parametrize(
    "text",
    [
        '["127.0.0.1:1", {"address": "127.0.0.1:2", "weight": 3, "max_in_flight": 4}]',
        '{"endpoints": ["127.0.0.1:1", {"address": "127.0.0.1:2", "weight": 3, "max_in_flight": 4}]}',
        "- 127.0.0.1:1\n- address: 127.0.0.1:2\n  weight: 3\n  max_in_flight: 4\n",
        "endpoints:\n- 127.0.0.1:1\n- {address: '127.0.0.1:2', weight: 3, max_in_flight: 4}\n",
    ],
    ids=["json", "json mapping", "yaml", "yaml mapping"],
)
async def test_forms_of_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "e"
    path.write_text(text)
    found = await source(path).look()
    assert found.endpoints == (EndpointSpec("127.0.0.1:1"), EndpointSpec("127.0.0.1:2", 3, "", 4))
    assert found.refresh_ns == 20 * MILLISECOND


async def test_priorities_and_zones_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "e"
    path.write_text("- {address: '127.0.0.1:1', priority: 3, zone: eu-1}\n- {address: '127.0.0.1:2', zone: ''}\n")
    with pytest.raises(DiscoveryError, match="not the name of a zone"):
        await source(path).look()
    path.write_text("- {address: '127.0.0.1:1', priority: 3, zone: eu-1}\n- 127.0.0.1:2\n")
    found = await source(path).look()
    assert found.endpoints == (EndpointSpec("127.0.0.1:1", priority=3, zone="eu-1"), EndpointSpec("127.0.0.1:2"))


async def test_an_empty_list_says_that_there_are_none(tmp_path: Path) -> None:
    path = tmp_path / "e"
    path.write_text("[]\n")
    assert (await source(path).look()).endpoints == ()


async def test_names_become_addresses_when_the_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "e"
    path.write_text("- a.test:9001\n")
    found = await source(path).look()
    assert found.endpoints == (EndpointSpec("10.0.0.1:9001", 1, "a.test"), EndpointSpec("10.0.0.2:9001", 1, "a.test"))
    path.write_text("- a.test:9001\n- b.test:9001\n")
    assert await failure(source(path)) == f"{path}: endpoints[1]: b.test cannot be resolved: Name or service not known"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", ": empty: a list is needed, [] if nothing is to be in it"),
        ("5\n", ":1: not a list, nor a mapping with the key endpoints"),
        ("- 127.0.0.1:1\n- 127.0.0.1\n", ":2: endpoints[1]: '127.0.0.1' has no port"),
        ("- 127.0.0.1:1\n- address: 127.0.0.1:2\n  weigth: 3\n", ":3: endpoints[1].weigth: unknown key; did you"),
        ("- 127.0.0.1:1\n- {address: '127.0.0.1:2', weight: 1001}\n", ":2: endpoints[1].weight: must be at most 1000"),
        ("- 127.0.0.1:1\n\n- 127.0.0.1:1\n", ":3: endpoints[1]: 127.0.0.1:1 is endpoint 0 already"),
        ("- 127.0.0.1:0\n", ":1: endpoints[0]: port 0 cannot be connected to"),
        ("servers: []\nendpoints: []\n", ":1: servers: unknown key"),
        ("{}\n", ":1: endpoints: is required"),
        ("- 127.0.0.1:1\n- [\n", ":3: not YAML"),
        ("- 127.0.0.1:1\n-\n", ":2: endpoints[1]: has no value"),
        ("endpoints: []\nendpoints: []\n", ":2: endpoints: duplicate key"),
    ],
    ids=lambda text: text.strip().replace("\n", " ")[:30],
)
async def test_what_is_wrong_is_named_with_file_line_and_path(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "endpoints.yaml"
    path.write_text(text)
    assert (await failure(source(path))).startswith(f"{path}{problem}")


async def test_what_the_pool_cannot_use_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "e"
    path.write_text("- unix:/run/a.sock\n")
    assert "tls.server_name is needed" in await failure(source(path, tls={}))
    assert addresses(await source(path, tls={"server_name": "a.test"}).look()) == ["unix:/run/a.sock"]


async def test_missing_files_and_what_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "e"
    asked = source(path)
    assert await failure(asked) == f"{path}: cannot be read: No such file or directory"
    os.mkfifo(path)
    assert await asyncio.wait_for(failure(asked), 10) == f"{path}: cannot be read: it is no file"
    path.unlink()
    path.write_text("- 127.0.0.1:1\n")
    assert addresses(await asked.look()) == ["127.0.0.1:1"]


async def while_written(asked: FileSource, path: Path) -> list[str]:
    """What is found while ten endpoints are written, one after the other."""
    with open(path, "w") as stream:
        stream.write("- 127.0.0.1:2\n")
        stream.flush()
        looking = asyncio.create_task(asked.look())
        for port in range(3, 12):
            await asyncio.sleep(0.005)
            stream.write(f"- 127.0.0.1:{port}\n")
            stream.flush()
    return addresses(await looking)


WHOLE = [f"127.0.0.1:{port}" for port in range(2, 12)]


async def test_a_file_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    """The half of a list is a list: only time tells."""
    path = tmp_path / "e"
    path.write_text("- 127.0.0.1:1\n")
    asked = source(path)
    await asked.look()
    assert await while_written(asked, path) == WHOLE


async def test_nor_is_one_that_begins_where_none_could_be_read(tmp_path: Path) -> None:
    path = tmp_path / "e"
    asked = source(path)
    assert "No such file" in await failure(asked)
    assert await while_written(asked, path) == WHOLE
    path.unlink()
    path.mkdir()
    assert "Is a directory" in await failure(asked)
    path.rmdir()
    assert await while_written(asked, path) == WHOLE


async def test_one_that_is_replaced_faster_than_looked_at_is_read_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "e"
    path.write_text("- 127.0.0.1:1\n")
    asked = source(path)
    await asked.look()

    async def replaced() -> None:
        for port in itertools.count(2):
            replace(path, f"- 127.0.0.1:{port}\n")
            await asyncio.sleep(0.001)

    replacing = asyncio.create_task(replaced())
    await asyncio.sleep(0.01)  # the first one is in place
    try:
        assert addresses(await asyncio.wait_for(asked.look(), 20)) != ["127.0.0.1:1"]
    finally:
        replacing.cancel()


async def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "e"
    path.write_text("- a.test:9001\n")
    asked: list[str] = []

    def counted(host: str) -> list[str]:
        asked.append(host)
        return lookup(host)

    watched = FileSource("models", file(path=path), pool(), counted)
    for _ in range(5):
        await watched.look()
    assert asked == ["a.test"]


async def test_a_file_that_everyone_may_write_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "e"
    path.write_text("- 127.0.0.1:1\n")
    path.chmod(0o666)
    with caplog.at_level(logging.WARNING):
        await source(path).look()
    assert f"{path} can be written by everyone on this machine" in caplog.text


async def test_a_file_with_a_name_that_cannot_be_resolved_is_watched_on(tmp_path: Path) -> None:
    """Whoever puts it right does not wait for the next try to resolve the name, which is not made at every look."""
    path = tmp_path / "e"
    path.write_text("- b.test:9001\n")
    asked: list[str] = []

    def counted(host: str) -> list[str]:
        asked.append(host)
        return lookup(host)

    watched = FileSource("models", file(path=path), pool(), counted)
    for _ in range(5):
        with pytest.raises(DiscoveryError, match=r"b\.test cannot be resolved") as caught:
            await watched.look()
        assert caught.value.retry_ns == watched.options.interval
    assert asked == ["b.test"]
    replace(path, "- a.test:9001\n")
    assert addresses(await watched.look()) == ["10.0.0.1:9001", "10.0.0.2:9001"]


async def test_a_name_that_could_not_be_resolved_is_looked_up_again(tmp_path: Path) -> None:
    path = tmp_path / "e"
    path.write_text("- b.test:9001\n")
    known: dict[str, list[str]] = {}
    watched = FileSource("models", file(path=path), pool(), lambda host: known.get(host) or no_such(host))
    await failure(watched)
    known["b.test"] = ["10.0.0.3"]

    async def found() -> list[str]:
        while True:
            with contextlib.suppress(DiscoveryError):
                return addresses(await watched.look())
            await asyncio.sleep(watched.options.interval / SECOND)

    assert await asyncio.wait_for(found(), 30) == ["10.0.0.3:9001"]
