"""What one program leaves to the next in the same process, and what is known of endpoints after it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from children import ENVIRONMENT
from test_control_registry import Plans

from lb.control.registry import DRAIN, ENABLED
from lb.control.upgrade.handover import FORMAT, VARIABLE, Handover, OldWorker, Program, still_there, take, this_program
from lb.control.upgrade.upgrader import try_installed
from lb.errors import StartError

# Hands a listening socket over to another program, which tells what it has.
FIRST = """
import os, socket, sys
from lb.control.upgrade.handover import Handover, Operated, Program, become
listening = socket.create_server(("127.0.0.1", 0))
program = Program((sys.executable, "-c", sys.argv[1]), ("run",), (sys.executable, "-c", sys.argv[1]), "1", "/nowhere")
handed = Handover(program, 3, stored=(("tidegate,listen,x", listening.fileno()),), operated=(Operated("p", "a", 1),))
become(program, handed, dict(os.environ), exactly=sys.argv[2] == "exactly")
"""
SECOND = """
import os, socket, sys
from lb.control.upgrade.handover import VARIABLE, take
found = take(os.environ)
passed = found.passed()
(stored,) = passed.stored
ours = socket.socket(fileno=stored.fd)
print(sys.argv[1:], found.number, stored.name, ours.getsockname()[0], found.operated[0].admin,
      VARIABLE in os.environ, os.get_inheritable(stored.fd), "/" in sys.path,
      os.environ["PYTHONPATH"] == os.environ["SAID"])
import signal
held = signal.pthread_sigmask(signal.SIG_BLOCK, ())
print(len(held))
"""
# Does not understand what it gets.
OTHER = """
import os
import lb.control.upgrade.handover as handover
handover.FORMAT += 1
handover.take(os.environ)
"""
BEFORE = """
import os, socket, sys
from lb.control.upgrade.handover import Handover, Program, become, still_there, take, this_program
found = take(os.environ)
if found is not None:
    print(found.failed, socket.socket(fileno=found.inherited[0]).getsockname()[0], found.number)
    sys.exit(0)
listening = socket.create_server(("127.0.0.1", 0))
exact = (sys.executable, "-c", sys.argv[1])
program = Program((sys.executable, "-c", sys.argv[2]), (), exact, this_program().version, this_program().path)
become(program, Handover(program, 3, inherited=(listening.fileno(),)), dict(os.environ))
"""


@pytest.mark.parametrize("exactly", [False, True])
def test_another_program_has_the_descriptors(exactly: bool) -> None:
    command = [sys.executable, "-c", FIRST, SECOND, "exactly" if exactly else ""]
    environment = {**ENVIRONMENT, "SAID": ENVIRONMENT["PYTHONPATH"]}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    # Five signals wait until the program hears of them.
    assert done.stdout == f"['run'] 3 tidegate,listen,x 127.0.0.1 1 False False {exactly} True\n5\n"


def test_what_another_program_does_not_understand_comes_back() -> None:
    command = [sys.executable, "-c", BEFORE, BEFORE, OTHER]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout == "the program before hands over by format 1, this one by 2 127.0.0.1 3\n"


def program() -> Program:
    return Program(("/nonexistent",), (), ("/nonexistent",), "1", "/nowhere")


def test_copies_are_others_descriptors_of_the_same() -> None:
    with socket.socket() as one, socket.socket() as two:
        handed = Handover(program(), 1, inherited=(one.fileno(),), workers=(OldWorker(1, one.fileno(), two.fileno()),))
        copied = handed.copied()
        assert len(set(copied.descriptors()) & set(handed.descriptors())) == 0
        assert os.fstat(copied.workers[0].channel).st_ino == os.fstat(two.fileno()).st_ino
        for fd in set(copied.descriptors()):
            os.close(fd)


def test_what_cannot_be_understood_is_refused() -> None:
    assert take({}) is None
    for data in (b"", b"nonsense", msgspec.msgpack.encode(Handover(program(), 1, format=FORMAT + 1))):
        memory = os.memfd_create("handed")
        os.write(memory, data)
        environ = {VARIABLE: str(memory)}
        with pytest.raises(StartError):
            take(environ)
        assert not environ
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(memory)


def test_a_field_that_is_not_known_is_passed_over() -> None:
    memory = os.memfd_create("handed")
    os.write(
        memory,
        msgspec.msgpack.encode({**msgspec.to_builtins(Handover(program(), 7), builtin_types=(bytes,)), "more": [1]}),
    )
    found = take({VARIABLE: str(memory)})
    assert found is not None
    assert found.number == 7


def test_a_program_over_which_another_was_installed_is_not_there(tmp_path: Path) -> None:
    assert still_there(this_program())
    known = msgspec.structs.replace(this_program(), path=str(tmp_path))
    assert not still_there(known)
    (tmp_path / "__init__.py").write_text('__version__ = "0.0.0"\n')
    assert not still_there(known)


def test_what_an_operator_has_said_holds_under_the_next_program() -> None:
    weights = {"a:1": 10, "b:1": 10, "c:1": 10}
    first, second = Plans(), Plans()
    slots = first.apply(weights)
    assert not list(first.registry.operated_endpoints())
    first.registry.operate(slots["a:1"], DRAIN)
    first.registry.operate_weight(slots["b:1"], 3)
    said = sorted(first.registry.operated_endpoints())
    assert said == [("pool", "a:1", DRAIN, None), ("pool", "b:1", ENABLED, 3)]
    for each in said:
        second.registry.remember(*each)
    slots = second.apply(weights)
    assert sorted(second.registry.operated_endpoints()) == said
    assert second.segment.admin(slots["a:1"]) == DRAIN
    assert [second.segment.weight(slots[address]) for address in weights] == [10, 3, 10]
    second.apply(weights)
    second.registry.operate_weight(slots["b:1"], None)
    assert second.segment.weight(slots["b:1"]) == 10


async def test_a_daemon_within_another_program_is_not_upgraded(tmp_path: Path) -> None:
    """Such as that of `make run`: what is installed in its place is no daemon, and need not know of trials."""
    program = Program((sys.executable, "-m", "lb.cli.demo"), (), (sys.executable,), "1", str(tmp_path))
    with pytest.raises(StartError, match="only a daemon that `tidegate run` has started"):
        await try_installed(tmp_path / "tidegate.yaml", program, asyncio.Event())
