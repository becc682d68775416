"""The memory that nghttp2's sessions take and give back."""

from __future__ import annotations

import random
from itertools import pairwise

from lb.core.http2_probe import Block, block_array, blocks_kept

LARGEST = 1024
KEPT = 1 << 20


def test_blocks_keep_what_is_in_them_and_share_nothing() -> None:
    chance = random.Random(7)
    blocks: list[tuple[Block, int]] = []
    for turn in range(20_000):
        if blocks and chance.random() < 0.5:
            block, fill = blocks.pop(chance.randrange(len(blocks)))
            assert block.read() == bytes([fill]) * block.size
            if chance.random() < 0.5:
                old, size = block.size, chance.randrange(2 * LARGEST)
                block.resize(size)
                kept = min(old, size)
                assert block.read()[:kept] == bytes([fill]) * kept
                block.write(fill)
                blocks.append((block, fill))
        else:
            zeroed = chance.random() < 0.3
            block = Block(chance.randrange(2 * LARGEST), zeroed)
            assert block.address % 16 == 0
            assert not zeroed or block.read() == bytes(block.size)
            fill = turn % 255 + 1
            block.write(fill)
            blocks.append((block, fill))
    spans = sorted((block.address, block.address + block.size) for block, _ in blocks if block.size)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_a_block_is_given_again() -> None:
    block = Block(600)
    address, before = block.address, blocks_kept()
    del block
    assert blocks_kept() == before + 608
    assert Block(593).address == address
    assert Block(593).address == address


def test_only_so_much_is_kept_and_nothing_large() -> None:
    before = blocks_kept()
    block = Block(LARGEST + 1)
    del block
    assert blocks_kept() == before
    blocks = [Block(LARGEST) for _ in range(2 * KEPT // LARGEST)]
    del blocks
    assert KEPT - LARGEST < blocks_kept() <= KEPT


def test_an_array_whose_size_no_number_holds() -> None:
    assert block_array(1 << 32, 0)
    assert not block_array(1 << 32, 1 << 32)
    assert not block_array(1, (1 << 64) - 1)
