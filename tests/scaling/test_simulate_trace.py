"""Reading of traces."""

from __future__ import annotations

from pathlib import Path

import pytest

from lb.config.units import MINUTE, SECOND
from lb.errors import TidegateError
from lb.scaling.simulate.trace import Trace, read


def written(folder: Path, text: str) -> Path:
    path = folder / "trace.csv"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_seconds_and_minutes_other_columns_and_gaps(tmp_path: Path) -> None:
    trace = read(written(tmp_path, "name,minute,requests,tokens\nx,10,4,9\nx,11,0,9\nx,13,2,9\n"))
    assert (trace.width, list(trace.counts)) == (MINUTE, [4, 0, 0, 2])
    assert (trace.requests, trace.length) == (6, 4 * MINUTE)
    assert read(written(tmp_path, "second,requests\n0,1\n5,2\n")).width == 5 * SECOND


def test_rows_of_one_bin_are_added_up_unless_one_series_is_chosen(tmp_path: Path) -> None:
    path = written(tmp_path, "trace,second,requests\ncode,0,1\ncode,1,7\nconv,0,10\nconv,1,20\n")
    assert list(read(path).counts) == [11, 27]
    assert list(read(path, where="trace=code").counts) == [1, 7]


def test_rows_need_no_order(tmp_path: Path) -> None:
    assert list(read(written(tmp_path, "second,requests\n2,3\n0,1\n1,2\n")).counts) == [1, 2, 3]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffsecond,requests\r\n0,4\r\n1,0\r\n2,6\r\n",  # of a spreadsheet
        "Second, Requests \n0,4\n1,0\n2,6\n",
        "SECOND,REQUESTS\n0.0, 4.0\n\n1.0,0\n2.0,6e0\n",
    ],
)
def test_headers_and_numbers_as_other_programs_write_them(tmp_path: Path, text: str) -> None:
    trace = read(written(tmp_path, text))
    assert (trace.width, list(trace.counts)) == (SECOND, [4, 0, 6])
    assert list(read(tmp_path / "trace.csv", where=" SECOND=" + text.splitlines()[-1].split(",")[0]).counts) == [6]


def test_rows_closer_than_a_nanosecond(tmp_path: Path) -> None:
    assert read(written(tmp_path, "second,requests\n0,1\n0.0000000001,2\n")).width == 1


@pytest.mark.parametrize("scale", [0.25, 1.0, 2.5, 0.1])
def test_scaling_carries_parts_of_requests_over(tmp_path: Path, scale: float) -> None:
    counts = [3, 1, 0, 7, 2, 2, 5]
    path = written(tmp_path, "second,requests\n" + "".join(f"{i},{n}\n" for i, n in enumerate(counts)))
    scaled = list(read(path, scale).counts)
    for end in range(1, len(counts) + 1):
        assert 0 <= sum(counts[:end]) * scale - sum(scaled[:end]) < 1


@pytest.mark.parametrize(
    ("text", "where", "told"),
    [
        ("time,requests\n0,1\n", None, "line 1: no column `second` or `minute` (there are: time, requests)"),
        ("second,count\n0,1\n", None, "line 1: no column 'requests'"),
        ("second,requests\n0,1\n1,many\n", None, "line 3: requests is not a number: 'many'"),
        ("second,requests\n0,1\n1,nan\n", None, "line 3: requests must be 0 or more: nan"),
        ("second,requests\n0,1\n1\n", None, "line 3: requests is missing: the row has fewer columns than the header"),
        ("second,requests\n0,1\n1,\n", None, "line 3: requests is not a number: ''"),
        ("second,requests\n0,1\n7,9e18\n", None, "9e+18 requests at second 7; 100000000 in one bin are the most"),
        ("second,requests,requests\n0,1,2\n", None, "line 1: column 'requests' is there 2 times"),
        ("second,requests\n0,-1\n", None, "line 2: requests must be 0 or more: -1"),
        ("second,requests\n0,1\n", "x=1", "line 1: no column 'x'"),
        ("second,requests\n0,1\n", "second=7", "no rows where second=7"),
        ("second,requests\n0,1\n", "second", "rows are chosen with COLUMN=VALUE"),
        ("second,requests\n", None, "no rows"),
        ("", None, "line 1: no column"),
        ("second,requests\n0,1\n1,1\n90000000000,1\n", None, "90000000001 bins of 1 seconds"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(tmp_path: Path, text: str, where: str | None, told: str) -> None:
    with pytest.raises(TidegateError) as caught:
        read(written(tmp_path, text), where=where)
    assert told in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TidegateError, match="cannot be read as CSV"):
        read(tmp_path / "none.csv")


def test_a_single_row_is_one_bin_of_its_unit(tmp_path: Path) -> None:
    assert read(written(tmp_path, "minute,requests\n7,3\n")) == Trace(MINUTE, read(tmp_path / "trace.csv").counts)
