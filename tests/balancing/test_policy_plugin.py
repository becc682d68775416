"""The example plug-in, built, installed and used as a user would."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from compiled.endpoint_set import acquire, release
from contract import PolicyContract
from fleet import Fleet, choose

from lb.balancing import registry
from lb.config import plugins
from lb.errors import ConfigError

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "policy-plugin"

pytestmark = pytest.mark.slow  # pip builds and installs the example


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory):
    """The example in a folder of its own on the path, for this module's tests."""
    source, target = tmp_path_factory.mktemp("source") / "policy-plugin", tmp_path_factory.mktemp("target")
    shutil.copytree(EXAMPLE, source)  # a build leaves files beside its sources
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index"]
    result = subprocess.run(
        [*pip, "--no-build-isolation", "--no-deps", "--target", target, source], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(target))
        plugins.installed.cache_clear()
        yield target
    plugins.installed.cache_clear()
    sys.modules.pop("tidegate_failover", None)


def test_comes_from_where_it_was_installed(installed):
    assert Path(sys.modules[registry.find("failover").__module__].__file__).parent == installed
    assert "failover" in registry.names()


def test_type_checkers_use_the_types_of_what_is_installed():
    """Without the marker (PEP 561) mypy takes all of an installed package for Any, stubs or not."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packed = {file.name for pattern in setuptools["package-data"]["lb"] for file in (ROOT / "lb").glob(pattern)}
    assert {"py.typed", "policy.pyi", "choice.pyi", "set.pyi"} <= packed


class TestFailover(PolicyContract):
    policy = "failover"


class TestFailoverWithLimit(PolicyContract):
    policy = "failover"
    options = {"full": 1}


def test_order_of_preference():
    with Fleet([2, 1, 1], workers=2) as fleet:
        policy = fleet.build("failover", full=2)
        picked = []
        for _ in range(9):
            index = choose(policy, 0, 0)
            acquire(fleet.sets[1], index)  # counted by whichever worker
            picked.append(index)
        assert picked == [0, 0, 0, 0, 1, 1, 2, 2, 0]
        fleet.down(0)
        release(fleet.sets[1], 2)
        assert choose(policy, 0, 0) == 2


@pytest.mark.parametrize("full", [0, -1, "two", 1.5])
def test_wrong_option(full):
    with Fleet([1]) as fleet, pytest.raises(ConfigError, match="policy 'failover': full: "):
        fleet.build("failover", full=full)
