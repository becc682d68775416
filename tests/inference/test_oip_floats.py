"""Decimal text and 16-bit formats against Python's and NumPy's."""

import itertools
import math
import struct

import numpy as np
import pytest
from compiled.inference import float_text, half_bits, half_value
from hypothesis import given
from hypothesis import strategies as st
from property import examples


def digits(text: str) -> str:
    return text.lower().partition("e")[0].replace(".", "").lstrip("-").strip("0")


bits64 = st.integers(0, 2**64 - 1).map(lambda b: struct.unpack("<d", struct.pack("<Q", b))[0])
bits32 = st.integers(0, 2**32 - 1).map(lambda b: struct.unpack("<f", struct.pack("<I", b))[0])


@pytest.mark.slow
@examples(2000)
@given(bits64.filter(math.isfinite) | st.floats(allow_nan=False, allow_infinity=False))
def test_double_is_the_shortest_round_trip(value: float) -> None:
    text = float_text(value)
    assert float(text) == value
    assert math.copysign(1, float(text)) == math.copysign(1, value)
    assert digits(text) == digits(repr(value))


@pytest.mark.slow
@examples(2000)
@given(bits32.filter(math.isfinite) | st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_float_is_the_shortest_round_trip(value: float) -> None:
    text = float_text(value, True)
    assert np.float32(float(text)) == np.float32(value)
    assert digits(text) == digits(np.format_float_scientific(np.float32(value), unique=True))


@pytest.mark.parametrize(
    ("value", "single", "text"),
    [
        (0.1, True, "0.1"),
        (0.1, False, "0.1"),
        (1.0, True, "1.0"),
        (-0.0, False, "-0.0"),
        (16777216.0, True, "16777216.0"),
        (1e22, False, "1e22"),
        (1e15, False, "1000000000000000.0"),
        (1e-5, False, "1e-5"),
        (0.0001, False, "0.0001"),
        (5e-324, False, "5e-324"),
        (1.7976931348623157e308, False, "1.7976931348623157e308"),
        (2.2250738585072014e-308, False, "2.2250738585072014e-308"),
        (1e-45, True, "1e-45"),
        (3.4028235e38, True, "3.4028235e38"),
        (9007199254740993.0, False, "9007199254740992.0"),
        (float("nan"), True, '"NaN"'),
        (float("inf"), False, '"Infinity"'),
        (float("-inf"), True, '"-Infinity"'),
    ],
)
def test_text(value: float, single: bool, text: str) -> None:
    assert float_text(value, single) == text


def test_powers_of_two_have_uneven_neighbours() -> None:
    for exponent in range(-1074, 1024):
        value = math.ldexp(1.0, exponent)
        assert float(float_text(value)) == value
        assert digits(float_text(value)) == digits(repr(value))
        if -149 <= exponent < 128:
            assert np.float32(float(float_text(value, True))) == np.float32(value)


def test_every_half_is_exact_both_ways() -> None:
    values = np.arange(65536, dtype="<u2").view("<f2").astype("<f8")
    for bits, value in enumerate(values):
        mine = half_value(bits)
        assert mine == value or (math.isnan(mine) and math.isnan(value))
        if not math.isnan(value):
            assert half_bits(value) == bits


@pytest.mark.slow
@examples(1000)
@given(st.floats(-70000, 70000) | st.floats(-1e-4, 1e-4) | bits64.filter(math.isfinite))
def test_half_rounds_like_numpy(value: float) -> None:
    with np.errstate(over="ignore", under="ignore"):
        expected = np.float64(value).astype("<f2")
    if np.isinf(expected):
        assert half_bits(value) is None
    else:
        assert half_bits(value) == expected.view("<u2")


def test_half_ties_go_to_even() -> None:
    values = np.arange(0x7C00, dtype="<u2").view("<f2").astype("<f8")
    for lower, upper in itertools.pairwise(values):
        assert half_bits((lower + upper) / 2) == np.float64((lower + upper) / 2).astype("<f2").view("<u2")
    assert half_bits(65519.99) == 0x7BFF
    assert half_bits(65520.0) is None


@pytest.mark.slow
@examples(1000)
@given(bits64.filter(math.isfinite))
def test_bfloat_is_the_nearest(value: float) -> None:
    bits = half_bits(value, True)
    if bits is None:
        assert abs(value) >= 3.3953138e38
        return
    error = abs(half_value(bits, True) - value)
    for neighbour in (bits - 1, bits + 1):
        other = half_value(neighbour & 0xFFFF, True)
        if math.isfinite(other):
            assert error <= abs(other - value)
