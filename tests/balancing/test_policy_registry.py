"""Policies by name: options, keys, plug-ins that clash or are broken, and the loader's lines about them."""

import sys
import textwrap
from pathlib import Path

import pytest
from fleet import Fleet, choose

from lb.balancing import policy_checks, registry
from lb.balancing.options import PolicyOptions
from lb.balancing.policies.least_request import LeastRequest
from lb.balancing.policy import Policy
from lb.config.load import load
from lb.config.plan.plan import PolicyPlan
from lb.errors import ConfigError, TidegateError

ROOT = Path(__file__).parents[2]
HEAD = "from lb.balancing.options import PolicyOptions\nfrom lb.balancing.policy import Policy\n"


@pytest.fixture
def install(install_plugin):
    """Installs a module as a distribution whose entry points are given as NAME = OBJECT."""

    def install(module, code, distribution=None, **entries):
        install_plugin(registry.GROUP, module, HEAD + textwrap.dedent(code), distribution, **entries)

    return install


def test_only_those_that_learn_are_told():
    """Who has no `observe` costs the data path no call; a plug-in is asked through its guard."""
    with Fleet([1]) as fleet:
        learns = {name for name in registry.POLICIES if name != "first" and fleet.build(name).learns}
    assert learns == {"auto", "least_time", "peak_ewma", "prequal", "shortest_expected_delay"}


def test_built_in_names():
    options = {name: set(registry.options_model(name).model_fields) for name in registry.POLICIES}
    assert options == {
        "auto": {"decay", "limits"},
        "client_side_weighted_round_robin": {
            "blackout_period",
            "error_utilization_penalty",
            "oob",
            "weight_expiration_period",
            "weight_update_period",
        },
        "first": {"fill"},
        "least_request": set(),
        "least_time": {"decay"},
        "shortest_expected_delay": {"decay"},
        "maglev": {"bounded_load"},
        "never_queue": set(),
        "peak_ewma": {"choices", "decay"},
        "power_of_two": {"choices"},
        "prequal": {"decay", "full_utilization", "probes", "quantile"},
        "random": set(),
        "rendezvous": {"bounded_load"},
        "ring_hash": {"bounded_load", "points"},
        "round_robin": set(),
    }
    assert set(registry.names()) >= set(registry.POLICIES)
    assert {name for name in registry.POLICIES if registry.find(name).needs_key} == {
        "maglev",
        "rendezvous",
        "ring_hash",
    }


def test_every_policy_and_option_is_documented_and_under_contract():
    page = (ROOT / "docs" / "howto" / "choose-a-policy.md").read_text()
    contract = (ROOT / "tests" / "balancing" / "test_policy_contract.py").read_text()
    for name in registry.POLICIES:
        assert f"| `{name}`" in page
        assert f'policy = "{name}"' in contract
        for option in registry.options_model(name).model_fields:
            assert f"| `{option}`" in page


def test_unknown_name():
    with (
        Fleet([1]) as fleet,
        pytest.raises(ConfigError, match=r"there is no policy 'least_requests'; write policy: least_request"),
    ):
        fleet.build("least_requests")
    with pytest.raises(ConfigError, match="no policy"):
        registry.options_model("x")


def test_options_are_closed():
    with Fleet([1]) as fleet, pytest.raises(ConfigError, match="policy 'maglev': table: unknown key"):
        fleet.build("maglev", table=3)


def test_constructor_checks_its_arguments():
    with Fleet([1]) as fleet:
        with pytest.raises(TypeError, match="EndpointSet"):
            LeastRequest(None, PolicyOptions())
        with pytest.raises(TypeError, match="PolicyOptions"):
            LeastRequest(fleet.sets[0], {})
        with pytest.raises(NotImplementedError):
            choose(Policy(fleet.sets[0], PolicyOptions()), 0, 0)


def test_plugin_with_options(install):
    install(
        "good",
        """
        class Options(PolicyOptions):
            index: int = 0

        class Fixed(Policy):
            Options = Options
            needs_key = True
            seen = []

            def __init__(self, endpoints, options):
                super().__init__(endpoints, options)
                self.index = options.index

            def pick(self, choice):
                return self.index

            def observe(self, *args):
                self.seen.append(args)
        """,
        fixed="Fixed",
    )
    assert "fixed" in registry.names()
    assert set(registry.options_model("fixed").model_fields) == {"index"}
    with Fleet([1, 1]) as fleet:
        policy = fleet.build("fixed", index=1)
        assert choose(policy, 5, 6) == 1
        policy.observe(1, 2, 3, True)
        assert sys.modules["good"].Fixed.seen == [(1, 2, 3, True)]
        assert policy.endpoints is fleet.sets[0]
        with pytest.raises(ConfigError, match="policy 'fixed': index: "):
            fleet.build("fixed", index="x")


@pytest.mark.parametrize("answer", ["2", "-2", "10**30", "None", "'0'", "0.0", "True"])
def test_plugin_that_chooses_no_endpoint_of_the_pool(install, answer):
    install("wild", f"class Wild(Policy):\n    def pick(self, choice):\n        return {answer}\n", wild="Wild")
    with Fleet([1, 1]) as fleet, pytest.raises(TidegateError, match=r"policy 'wild' chose .* of 2 endpoints"):
        choose(fleet.build("wild"), 0, 0)


def test_plugin_that_fails_while_it_runs(install):
    install(
        "failing",
        "class Failing(Policy):\n    def pick(self, choice):\n        return 1 // 0\n",
        failing="Failing",
    )
    with Fleet([1]) as fleet, pytest.raises(ZeroDivisionError):
        choose(fleet.build("failing"), 0, 0)


def test_plugin_whose_constructor_fails(install):
    install(
        "refusing",
        """
        class Refusing(Policy):
            def __init__(self, endpoints, options):
                raise RuntimeError("no licence")
            def pick(self, choice):
                return 0
        """,
        refusing="Refusing",
    )
    with (
        Fleet([1]) as fleet,
        pytest.raises(ConfigError, match="policy 'refusing' cannot be built: RuntimeError: no licence"),
    ):
        fleet.build("refusing")


def test_an_operator_may_interrupt_the_import_of_a_plugin(install):
    install("slow", "raise KeyboardInterrupt", slow="Slow")
    with pytest.raises(KeyboardInterrupt):
        registry.find("slow")


@pytest.mark.parametrize("place", ["__init__(self, endpoints, options)", "check(cls, value)"])
def test_plugin_that_would_end_the_program(install, place):
    code = {
        "__init__(self, endpoints, options)": """
            class Ending(Policy):
                def __init__(self, endpoints, options):
                    raise SystemExit("no licence")
        """,
        "check(cls, value)": """
            from pydantic import field_validator
            class Options(PolicyOptions):
                index: int = 0
                @field_validator("index")
                @classmethod
                def check(cls, value):
                    raise SystemExit("no licence")
            class Ending(Policy):
                Options = Options
        """,
    }[place]
    install("ending", textwrap.dedent(code).rstrip() + "\n" + PICK, ending="Ending")
    with Fleet([1]) as fleet, pytest.raises(ConfigError, match=r"policy 'ending'.* SystemExit: no licence"):
        fleet.build("ending", **({"index": 1} if "check" in place else {}))


def test_plugin_that_clashes_with_a_built_in(install):
    install("clash", "class Mine(Policy):\n    def pick(self, choice):\n        return 0\n", maglev="Mine")
    with pytest.raises(
        ConfigError, match=r"more than one policy 'maglev': by Tidegate itself, by clash:Mine of clash 1\.2"
    ):
        registry.find("maglev")
    assert registry.find("least_request") is LeastRequest


def test_plugins_that_clash_with_each_other(install):
    for module in ("one", "two"):
        install(module, "class Mine(Policy):\n    def pick(self, choice):\n        return 0\n", mine="Mine")
    with pytest.raises(
        ConfigError, match=r"more than one policy 'mine': by (one|two):Mine of .*, by (one|two):Mine of .*"
    ):
        registry.find("mine")


PICK = "    def pick(self, choice):\n        return 0\n"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise OSError('no GPU')", "OSError: no GPU"),
        ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("import sys\nsys.exit('no GPU')", "SystemExit: no GPU"),
        ("class Panic(BaseException): pass\nraise Panic('no GPU')", "Panic: no GPU"),
        ("other = 1", "AttributeError"),
        ("def Broken(endpoints, options): pass", "not a subclass of lb.balancing.policy.Policy"),
        ("class Broken:\n" + PICK, "not a subclass of lb.balancing.policy.Policy"),
        ("class Broken(Policy): pass", "does not define pick"),
        (f"class Broken(Policy):\n    needs_key = 'yes'\n{PICK}", "needs_key is not True or False"),
        (
            "class Broken(Policy):\n    def pick(self, now, key, exclude):\n        return 0\n",
            "more than one argument, choice",
        ),
        (f"class Broken(Policy):\n    Options = dict\n{PICK}", "not a subclass of lb.balancing.options.PolicyOptions"),
        (
            f"class O(PolicyOptions, extra='allow'): pass\nclass Broken(Policy):\n    Options = O\n{PICK}",
            "is not closed",
        ),
    ],
)
def test_broken_plugin(install, code, reason):
    install("broken", "", broken="Broken")
    (plugins_file,) = [entry for entry in sys.path if entry.endswith("/broken")]
    with open(f"{plugins_file}/broken.py", "a") as stream:
        stream.write(code)
    with pytest.raises(ConfigError) as caught:
        registry.build(PolicyPlan("broken"), None)
    (line,) = caught.value.problems
    assert line.startswith("policy 'broken' (broken:Broken of broken 1.2) cannot be used: ")
    assert reason in line


FILE = """\
listeners:
  web:
    bind: 127.0.0.1:8080
    protocol: http
    routes:
      - {match: {path: {prefix: /}}, pool: p}
pools:
  p:
    protocol: http
    endpoints: ["127.0.0.1:9001"]
    policy: %s
"""


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        ("maglev", "pools.p.policy.key: is required: maglev chooses by a key (header, cookie, query, source or model)"),
        (
            "{type: maglev, key: {source: true}, tabel: 3}",
            "pools.p.policy.tabel: unknown key; the keys here are bounded_load",
        ),
        (
            "{type: round_robin, key: {source: true}}",
            "pools.p.policy.key: has no effect: round_robin does not choose by a key",
        ),
        ("round_robbin", "pools.p.policy: there is no policy 'round_robbin'; did you mean round_robin?"),
        ("first", "pools.p.policy.fill: is required"),
        (
            "{type: peak_ewma, decay: 10}",
            "pools.p.policy.decay: must be a duration with its unit, such as 250ms, 2s or 5m"
            "; write 10s for seconds, 10ms for milliseconds",
        ),
        ("{type: peak_ewma, decay: 100us}", "pools.p.policy.decay: must be at least 1ms"),
        (
            "{type: prequal, probes: {path: load}}",
            "pools.p.policy.probes.path: 'load' is not a path: it begins with / and has no spaces; write /load",
        ),
        ("{type: power_of_two, choices: 40}", "pools.p.policy.choices: must be at most 32"),
        (
            "{type: ring_hash, key: {source: true}, bounded_load: 0.5}",
            "pools.p.policy.bounded_load: must be at least 1",
        ),
        (
            "{type: least_request, bounded_load: 1.25}",
            "pools.p.policy.bounded_load: unknown key",
        ),
        ("leastconn", "pools.p.policy: there is no policy 'leastconn'; write policy: least_request"),
        (
            "static-rr",
            "pools.p.policy: there is no policy 'static-rr'; write policy: round_robin"
            " (the weights of endpoints count)",
        ),
        ("ip_hash", "pools.p.policy: there is no policy 'ip_hash'; write policy: {type: maglev, key: {source: true}}"),
        ("maglev2", "pools.p.policy: there is no policy 'maglev2'; did you mean maglev?"),
    ],
)
def test_lines_of_the_loader(tmp_path, policy, problem):
    file = tmp_path / "tidegate.yaml"
    file.write_text(FILE % policy)
    with pytest.raises(ConfigError) as caught:
        load(file, checks=[policy_checks.check_policies])
    assert caught.value.problems == [f"{file}:11: {problem}"]


@pytest.mark.parametrize(
    "policy",
    [
        "round_robin",
        "least_request",
        "random",
        "{type: power_of_two, choices: 3}",
        "{type: peak_ewma, decay: 5s, choices: 4}",
        "{type: least_time, decay: 1m}",
        "{type: first, fill: 8}",
        "{type: maglev, key: {cookie: sid}}",
        "{type: rendezvous, key: {source: true}, bounded_load: 2}",
        "{type: ring_hash, key: {header: x}, points: 100, bounded_load: 1.25}",
    ],
)
def test_good_policies_pass_the_loader(tmp_path, policy):
    file = tmp_path / "tidegate.yaml"
    file.write_text(FILE % policy)
    assert load(file, checks=[policy_checks.check_policies]).pools["p"].policy.type in registry.POLICIES
