from __future__ import annotations

import asyncio
import os

from waiting import until

from lb.control.workers.lines import MAX_LINE, LineReader


async def settle(lines: list[str], n: int) -> None:
    await until(lambda: len(lines) >= n)


async def test_lines_arrive_whole_and_the_last_one_without_its_end() -> None:
    lines: list[str] = []
    reading, writing = os.pipe()
    reader = LineReader(asyncio.get_running_loop(), reading, lines.append)
    os.write(writing, b"one\ntw")
    await settle(lines, 1)
    os.write(writing, b"o\r\n\n\xff\xfe\nthr")
    await settle(lines, 3)
    os.write(writing, b"ee")
    os.close(writing)
    await settle(lines, 4)
    assert lines == ["one", "two", "\ufffd\ufffd", "three"]
    reader.finish()
    assert len(lines) == 4


async def test_finish_takes_what_is_there_although_the_pipe_is_still_held() -> None:
    lines: list[str] = []
    reading, writing = os.pipe()
    reader = LineReader(asyncio.get_running_loop(), reading, lines.append)
    os.write(writing, b"last\nwords")
    reader.finish()
    assert lines == ["last", "words"]
    try:
        os.write(writing, b"x")
    except BrokenPipeError:
        pass
    else:
        raise AssertionError("the reading end is still open")
    finally:
        os.close(writing)


async def test_a_line_without_an_end_is_bounded() -> None:
    lines: list[str] = []
    reading, writing = os.pipe()
    reader = LineReader(asyncio.get_running_loop(), reading, lines.append)
    for _ in range(10):
        os.write(writing, b"x" * 5000)
        await asyncio.sleep(0)
    await settle(lines, 1)
    os.close(writing)
    reader.finish()
    assert all(len(line) <= MAX_LINE for line in lines)
