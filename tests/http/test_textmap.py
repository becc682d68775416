"""The map from texts to numbers holds what it was given and nothing else."""

from __future__ import annotations

import pytest
from compiled.bytes_to_values import number_of
from hypothesis import given
from hypothesis import strategies as st

from lb.proxy.routing.textmap import TextMap


@given(
    st.dictionaries(st.binary(max_size=12), st.integers(0, 2**31 - 1), max_size=200), st.lists(st.binary(max_size=12))
)
def test_it_is_a_dict(items: dict[bytes, int], others: list[bytes]) -> None:
    made = TextMap(items)
    assert len(made) == len(items)
    for key in [*items, *others]:
        assert number_of(made, key) == items.get(key)


def test_an_empty_one_has_nothing() -> None:
    assert number_of(TextMap({}), b"") is None
    assert number_of(TextMap({}), b"a") is None


def test_ten_thousand() -> None:
    items = {b"/v2/models/m%05d/" % i: i for i in range(10_000)}
    made = TextMap(items)
    assert all(number_of(made, key) == value for key, value in items.items())
    assert number_of(made, b"/v2/models/m10000/") is None


def test_numbers_are_not_negative() -> None:
    with pytest.raises(ValueError, match="no room"):
        TextMap({b"a": -1})
