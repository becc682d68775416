"""Normal forms of paths."""

from __future__ import annotations

from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.config.normal import normal_path
from lb.config.plan.routes import NormalizePlan

normal_target = import_module("lb.proxy.routing.normalize").normal_target

ALL = NormalizePlan(True, True, True, "keep")
PLANS = st.builds(
    NormalizePlan, st.booleans(), st.booleans(), st.booleans(), st.sampled_from(["keep", "decode", "reject"])
)
PIECES = st.sampled_from(
    [
        "/",
        "//",
        ".",
        "..",
        "/.",
        "/..",
        "a",
        "%41",
        "%2e",
        "%2E",
        "%2f",
        "%5C",
        "%00",
        "%7e",
        "%7F",
        "%",
        "%4",
        "%zz",
        "\\",
        ";",
    ]
)
PATHS = st.lists(PIECES, max_size=12).map(lambda pieces: "/" + "".join(pieces))


@given(path=PATHS, query=st.sampled_from(["", "?", "?a=/../%41//"]), plan=PLANS)
def test_compiled_and_plain_normal_forms_agree(path: str, query: str, plan: NormalizePlan) -> None:
    normal = normal_path(path, plan)
    expected = None if normal is None else (normal + query).encode()
    assert normal_target((path + query).encode(), plan) == expected


@given(path=PATHS)
def test_a_normal_form_stays_as_it_is(path: str) -> None:
    normal = normal_path(path, ALL)
    if normal is not None:
        assert normal.startswith("/")
        assert "//" not in normal
        assert not {".", ".."} & set(normal.split("/"))
        assert normal_path(normal, ALL) == normal


@pytest.mark.parametrize("target", [b"*", b"/a?b//c/..", b"/"])
def test_what_needs_nothing_is_left_alone(target: bytes) -> None:
    assert normal_target(target, ALL) == target
