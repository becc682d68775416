"""Sources by name, and the one of docs/howto/add-a-discovery-source.md, installed as the page says."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from discovery_pools import pool
from source_contract import SourceContract

from lb.config.load import load
from lb.config.schema.file import DiscoverConfig
from lb.discovery import registry
from lb.discovery.source import Source
from lb.errors import ConfigError

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "add-a-discovery-source.md"
Install = Callable[..., None]


@pytest.fixture
def install(install_plugin: Install) -> Install:
    """Installs a module as a distribution whose entry points are given as NAME = OBJECT."""
    return partial(install_plugin, registry.GROUP)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def problems(tmp_path: Path, discover: str) -> list[str]:
    path = tmp_path / "t.yaml"
    head = 'listeners: {a: {bind: "127.0.0.1:1", protocol: tcp, pool: p}}\npools:\n  p:\n    protocol: tcp\n'
    path.write_text(f"{head}    discover: {discover}\n")
    try:
        load(path, checks=[registry.check_discovery])
    except ConfigError as error:
        return [problem.replace(f"{path}:", "") for problem in error.problems]
    return []


@pytest.fixture
def catalogue(install: Install) -> None:
    (code,), (toml,) = blocks("python"), blocks("toml")
    name, module, target = re.findall(r'(\w+) = "(\w+):(\w+)"', toml)[0]
    assert f'entry-points."{registry.GROUP}"' in toml
    install(module, code, **{name: target})


@pytest.mark.usefixtures("catalogue")
class TestSourceOfThePage(SourceContract):
    @pytest.fixture(autouse=True)
    async def _site(self, catalogue: None) -> AsyncIterator[None]:
        self.body: bytes = b"[]"

        async def answer(request: web.Request) -> web.Response:
            return web.Response(body=self.body, content_type="application/json")

        app = web.Application()
        app.router.add_get("/", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        yield
        await runner.cleanup()

    def build(self) -> Source:
        discover = DiscoverConfig.model_validate({"catalogue": {"url": self.url, "interval": "2s"}})
        return registry.build("models", discover, pool())

    def put(self, hosts: list[str]) -> None:
        self.body = orjson.dumps([f"{host}:9001" for host in hosts])

    def damage(self) -> None:
        self.body = b"[5]"


@pytest.mark.usefixtures("catalogue")
def test_the_pages_configuration_is_checked(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    discover = text.partition("discover: ")[2].strip()
    assert problems(tmp_path, discover) == []
    wrong = discover.replace("interval: 5s", "intervall: 5s").replace("initial: required", "max_endpoints: 0")
    assert problems(tmp_path, wrong) == [
        "5: pools.p.discover.max_endpoints: must be at least 1; there is always a limit, of 4096 at most",
    ]
    assert problems(tmp_path, wrong.replace("max_endpoints: 0", "max_endpoints: 9")) == [
        "5: pools.p.discover.catalogue.intervall: unknown key; did you mean interval?"
    ]


def test_built_in_names() -> None:
    assert registry.SOURCES.keys() == {"dns", "file", "kubernetes", "aws", "gcp"} < DiscoverConfig.model_fields.keys()


BROKEN = {
    "from lb.discovery.source import Source\nclass Mine(Source): pass": "it does not define look",
    "class Mine: pass": "it is not a subclass of lb.discovery.source.Source",
    "import sys\nsys.exit('no licence')": "SystemExit: no licence",
    "import nowhere_to_be_found": "ModuleNotFoundError: No module named 'nowhere_to_be_found'",
    "from lb.discovery.static import StaticSource\nfrom pydantic import BaseModel\n"
    "class Mine(StaticSource):\n    Options = BaseModel": 'its Options is not closed (extra="forbid")',
    "from lb.discovery.static import StaticSource\n"
    "class Mine(StaticSource):\n    Options = dict": "its Options is not a subclass of pydantic.main.BaseModel",
}


@pytest.mark.parametrize("code", BROKEN, ids=BROKEN.values())
def test_broken_plug_ins_are_named_with_the_reason(install: Install, tmp_path: Path, code: str) -> None:
    install("tidegate_broken", code, mine="Mine")
    (problem,) = problems(tmp_path, "{mine: {}}")
    assert problem.startswith("5: pools.p.discover.mine: source 'mine' (tidegate_broken:Mine of tidegate_broken 1.2)")
    assert BROKEN[code] in problem


def test_a_taken_name_is_refused(install: Install, tmp_path: Path) -> None:
    install("tidegate_taken", "from lb.discovery.static import StaticSource as Mine", dns="Mine")
    (problem,) = problems(tmp_path, "{dns: {name: a.test, port: 1}}")
    assert (
        "there is more than one source 'dns': by Tidegate itself, by tidegate_taken:Mine of tidegate_taken" in problem
    )


@pytest.mark.parametrize("raised", ["KeyError: 'x'", "SystemExit: x"])
def test_a_constructor_that_fails_is_an_error_in_words(install: Install, raised: str) -> None:
    code = f"""
    from lb.discovery.static import StaticSource
    class Mine(StaticSource):
        def __init__(self, *arguments): raise {raised.partition(":")[0]}("x")
    """
    install("tidegate_failing", code, mine="Mine")
    options: dict[str, Any] = {"mine": {}}
    with pytest.raises(ConfigError, match=f"source 'mine' cannot be built: {raised}"):
        registry.build("models", DiscoverConfig.model_validate(options), pool())


def test_options_that_would_end_the_program_are_an_error_in_words(install: Install, tmp_path: Path) -> None:
    code = """
    from lb.discovery.source import SourceOptions
    from lb.discovery.static import StaticSource
    from pydantic import field_validator
    class Options(SourceOptions):
        url: str
        @field_validator("url")
        @classmethod
        def check(cls, value): raise SystemExit("x")
    class Mine(StaticSource):
        Options = Options
    """
    install("tidegate_ending", code, mine="Mine")
    assert problems(tmp_path, "{mine: {url: a}}") == [
        "5: pools.p.discover.mine: the options cannot be checked: SystemExit: x"
    ]
