"""State machines are tables: each is complete, and a debug build stops at a step that its table lacks."""

import importlib
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Module, its table, the module that declares the states, and their prefix.
MACHINES = [
    ("lb.http.http2.session", "STATES", "lb.http.http2.session", "SESSION_"),
    ("lb.http.http2.session", "STREAM_STATES", "lb.http.http2.streams", "STREAM_"),
    ("lb.proxy.client.connection", "STATES", "lb.proxy.client.connection", "H1_"),
    ("lb.proxy.exchange.exchange", "STATES", "lb.proxy.exchange.exchange", "X_"),
    ("lb.proxy.client.http2_connection", "STATES", "lb.proxy.client.http2_connection", "FRONT_"),
    ("lb.proxy.accept.first_bytes", "STATES", "lb.proxy.accept.first_bytes", "P_"),
    ("lb.upstream.connections.http1", "STATES", "lb.upstream.connections.http1", "UPSTREAM_"),
    ("lb.upstream.connections.http2_connection", "STATES", "lb.upstream.connections.http2_connection", "BACK_"),
]

# The C of the declarations, and a machine that takes the steps it is told.
MOVE = (ROOT / "lb/net/states.pxd").read_text().split('"""')[3].replace("\\\\", "\\")
STEP = """
static const tg_states door = {"door", 3, {"open", "shut", "gone"}, {1 << 1, 1 << 0 | 1 << 2, 0}};
int main(int count, char **words) {
    unsigned char state = 0;
    for (int i = 1; i < count; i++)
        tg_move(&door, &state, words[i][0] - '0');
    return state;
}
"""


def table_of(module: str, name: str) -> dict[str, list[str]]:
    table = getattr(importlib.import_module(module), name)
    assert isinstance(table, dict)
    return table


def reached(table: dict[str, list[str]], state: str) -> set[str]:
    """The states that may come at some time behind `state`."""
    found: set[str] = set()
    todo = [state]
    while todo:
        for follower in table[todo.pop()]:
            if follower not in found:
                found.add(follower)
                todo.append(follower)
    return found


@pytest.mark.parametrize(("module", "name", "declared", "prefix"), MACHINES)
def test_a_table_has_every_state_in_the_order_of_its_number(module: str, name: str, declared: str, prefix: str) -> None:
    text = (ROOT / f"{declared.replace('.', '/')}.pxd").read_text()
    states = re.findall(rf"^    {prefix}([A-Z]+)(?: = 0)?(?:  +#.*)?$", text, re.MULTILINE)
    assert list(table_of(module, name)) == [state.lower() for state in states]


@pytest.mark.parametrize(("module", "name"), [machine[:2] for machine in MACHINES])
def test_every_state_comes_from_the_first_and_leads_to_the_end(module: str, name: str) -> None:
    table = table_of(module, name)
    first, *_, end = table
    assert table[end] == []
    assert reached(table, first) | {first} == set(table)
    assert all(end in reached(table, state) for state in table if state != end)


def run_steps(folder: Path, flags: list[str], steps: str) -> subprocess.CompletedProcess[str]:
    source, program = folder / "step.c", folder / "step"
    source.write_text(MOVE + STEP)
    compiler = sysconfig.get_config_var("CC").split()[0]
    subprocess.run([compiler, *flags, str(source), "-o", str(program)], check=True)
    return subprocess.run([str(program), *steps.split()], capture_output=True, text=True)


@pytest.mark.parametrize("flags", [["-O0", "-g"], ["-O2", "-DTIDEGATE_DEBUG"]], ids=" ".join)
def test_a_debug_build_stops_at_an_illegal_step(tmp_path: Path, flags: list[str]) -> None:
    stopped = run_steps(tmp_path, flags, "1 2 0")
    assert stopped.returncode == -6  # SIGABRT
    assert stopped.stderr == "tidegate: door: state open may not follow gone\n"


@pytest.mark.parametrize("flags", [["-O0", "-g"], ["-O2"]], ids=" ".join)
def test_legal_steps_are_taken(tmp_path: Path, flags: list[str]) -> None:
    assert run_steps(tmp_path, flags, "1 0 1 2").returncode == 2


def test_other_builds_look_at_nothing(tmp_path: Path) -> None:
    assert run_steps(tmp_path, ["-O2"], "1 2 0").returncode == 0
