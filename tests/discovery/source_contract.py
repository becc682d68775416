"""What every source of endpoints must do. A member's test class derives from SourceContract and says how its world is
made to hold certain endpoints, and how it is broken."""

from __future__ import annotations

import asyncio
import inspect
from abc import abstractmethod

import pytest

from lb.discovery.check import check_specs
from lb.discovery.source import DiscoveryError, Found, Source

HOSTS = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]


class SourceContract:
    """Override the abstract ones; `changes` is False for a source whose world cannot change."""

    changes = True

    @abstractmethod
    def build(self) -> Source: ...

    @abstractmethod
    def put(self, hosts: list[str]) -> None:
        """From now on the world has one endpoint on each of these hosts, on port 9001."""

    @abstractmethod
    def damage(self) -> None:
        """From now on the world gives no usable answer, until the next `put`."""

    async def test_gives_literal_addresses_each_once(self) -> None:
        self.put(HOSTS)
        source = self.build()
        found = await source.look()
        assert sorted(e.address for e in found.endpoints) == [f"{host}:9001" for host in HOSTS]
        check_specs(source.pool, source.config, found.endpoints)
        await source.close()

    async def test_the_same_world_gives_the_same_answer_in_the_same_order(self) -> None:
        self.put(HOSTS)
        one, other = self.build(), self.build()
        first = await one.look()
        assert first == await one.look()
        assert first.endpoints == (await other.look()).endpoints
        await one.close()
        await other.close()

    async def test_says_when_to_look_again(self) -> None:
        self.put(HOSTS)
        source = self.build()
        found = await source.look()
        assert isinstance(found, Found)
        assert (found.refresh_ns is not None and found.refresh_ns > 0) if self.changes else found.refresh_ns is None
        await source.close()

    async def test_follows_the_world(self) -> None:
        self.put(HOSTS)
        source = self.build()
        before = await source.look()
        self.put(HOSTS[1:])
        after = await source.look()
        assert (after != before) == self.changes
        if self.changes:
            assert sorted(e.address for e in after.endpoints) == [f"{host}:9001" for host in HOSTS[1:]]
        await source.close()

    async def test_no_usable_answer_is_an_error_in_words_and_not_an_empty_set(self) -> None:
        self.put(HOSTS)
        self.damage()
        source = self.build()
        with pytest.raises(DiscoveryError) as caught:
            await source.look()
        assert str(caught.value)
        assert "\n" not in str(caught.value)
        await source.close()

    async def test_goes_on_after_an_error(self) -> None:
        self.put(HOSTS)
        source = self.build()
        before = await source.look()
        self.damage()
        if self.changes:
            with pytest.raises(DiscoveryError):
                await source.look()
        self.put(HOSTS)
        assert (await source.look()).endpoints == before.endpoints
        await source.close()

    async def test_a_look_can_be_cancelled(self) -> None:
        self.put(HOSTS)
        source = self.build()
        task = asyncio.create_task(source.look())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len((await source.look()).endpoints) == len(HOSTS)
        await source.close()

    def test_describes_itself_in_one_line(self) -> None:
        self.put(HOSTS)
        text = self.build().describe()
        assert "\n" not in text
        assert len(text) < 200

    def test_its_options_are_closed(self) -> None:
        options = type(self.build()).Options
        assert options.model_config["extra"] == "forbid"
        assert options.model_config["frozen"]

    def test_only_look_and_close_wait(self) -> None:
        kind = type(self.build())
        assert inspect.iscoroutinefunction(kind.look)
        assert inspect.iscoroutinefunction(kind.close)
