"""W3C Trace Context: what is taken, what is refused, what is sent."""

import subprocess
import sys

import pytest
from children import ENVIRONMENT
from compiled.bytes_to_values import new_traceparent, parse_traceparent

from lb.http import trace

ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (f"00-{ID}-{SPAN}-01", 1),
        (f"00-{ID}-{SPAN}-00", 0),
        (f"00-{ID}-{SPAN}-03", 3),  # level 2: the id is random
        (f"00-{ID}-{SPAN}-ff", 3),  # bits that nobody knows yet are not passed on
        (f"01-{ID}-{SPAN}-01", 1),
        (f"01-{ID}-{SPAN}-01-what-the-future-will-be-like", 1),
        (f"cc-{ID}-{SPAN}-01-", 1),
    ],
)
def test_taken(text: str, flags: int) -> None:
    assert parse_traceparent(text.encode()) == (ID, SPAN, flags)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"00-{ID}-{SPAN}-0",
        f"00-{ID}-{SPAN}-01-",
        f"00-{ID}-{SPAN}-01-more",
        f"01-{ID}-{SPAN}-01.more",
        f"ff-{ID}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{ID}-{'0' * 16}-01",
        f"00-{ID.upper()}-{SPAN}-01",
        f"00-{ID}-{SPAN.upper()}-01",
        f"0G-{ID}-{SPAN}-01",
        f"00-{ID}-{SPAN}-0x",
        f"00_{ID}-{SPAN}-01",
        f"00-{ID}_{SPAN}-01",
        f"00-{ID}-{SPAN}_01",
        f" 00-{ID}-{SPAN}-01",
        f"00-{ID}-{SPAN}-01 ",
        f"00-{ID[:-1]}\0-{SPAN}-01",
    ],
)
def test_refused(text: str) -> None:
    assert parse_traceparent(text.encode()) is None


def test_processes_that_are_forked_make_ids_of_their_own() -> None:
    """Workers are forks of one process."""
    code = (
        "import os; from compiled.bytes_to_values import new_traceparent\n"
        "os.fork(); os.fork(); os.write(1, new_traceparent(0.5).encode() + b' ')"
    )
    made = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, check=True).stdout.split()
    assert len(set(made)) == 4


def test_a_new_trace_is_valid_and_random() -> None:
    made = {new_traceparent(0.5) for _ in range(2000)}
    assert len(made) == 2000
    parsed = [parse_traceparent(text.encode()) for text in made]
    assert all(part is not None for part in parsed)
    sampled = sum(part[2] == 3 for part in parsed if part)
    assert {part[2] for part in parsed if part} == {2, 3}
    assert 850 < sampled < 1150  # 6 standard deviations of a fair coin


@pytest.mark.parametrize(("ratio", "flags"), [(0.0, 2), (1.0, 3), (-1.0, 2), (7.0, 3), (float("nan"), 2)])
def test_all_or_none(ratio: float, flags: int) -> None:
    assert {int(new_traceparent(ratio)[-2:], 16) for _ in range(200)} == {flags}


def test_the_generator_is_xoshiro256() -> None:
    """The reference implementation's first outputs, from the state 1, 2, 3, 4: 11520, 0, 1509978240, …"""
    trace.seed(b"".join(n.to_bytes(8, "little") for n in (1, 2, 3, 4)))
    first, second = (new_traceparent(0)[3:35] for _ in range(2))
    words = [int.from_bytes(bytes.fromhex(first[i : i + 16]), "little") for i in (0, 16)]
    assert words == [11520, 0]
    assert (
        int.from_bytes(bytes.fromhex(second[:16]), "little") == 1215971899390074240
    )  # the fourth; a span took the third
    for bad in (b"", b"x" * 31, bytes(32)):
        with pytest.raises(ValueError, match="seed"):
            trace.seed(bad)


def test_every_process_has_a_sequence_of_its_own() -> None:
    import os

    trace.seed(os.urandom(32))
    assert new_traceparent(0) != new_traceparent(0)
