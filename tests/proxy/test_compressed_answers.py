"""Answers of inference, compressed where the client asks for it."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from datapath import Site
from infer_site import gate_to, idle
from oip_site import Answer, ModelServer, ask, binary, plain, tensor

from lb.inference.compression import COMPRESS_LEAST, COMPRESS_MOST

PLAIN: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}
LONG = plain(tensor([0.25] * 2000))


def accepting(coding: str) -> dict[str, str]:
    return {"Accept-Encoding": coding}


def plain_of(answer: Answer) -> Answer:
    body = PLAIN[answer.headers["content-encoding"]](answer.body)
    assert len(answer.body) < len(body)
    return Answer(answer.status, answer.headers, body)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_json_and_binary_answers(site: Site, coding: str) -> None:
    gate = await gate_to(site, ModelServer())
    answer = await ask(gate, LONG, headers=accepting(coding))
    assert (answer.status, answer.headers["content-encoding"]) == (200, coding)
    assert answer.headers["vary"] == "Accept-Encoding"
    assert plain_of(answer).json["outputs"][0]["data"] == [0.25] * 2000
    body, headers = binary((tensor([], shape=[2000]), bytes(8000)))
    answer = await ask(gate, body, headers={**headers, **accepting(coding)})
    assert answer.headers["content-encoding"] == coding
    found = plain_of(answer)  # the header counts the bytes of the JSON part before compression
    assert found.json["outputs"][0]["parameters"] == {"binary_data_size": 8000}
    assert found.binary == bytes(8000)
    total = gate.total(2)
    assert total["sent_bytes"] < 2000
    await idle(gate)


async def test_who_does_not_ask_for_it_has_none(site: Site) -> None:
    gate = await gate_to(site, ModelServer())
    for headers in ({}, accepting("identity"), accepting("br"), accepting("gzip;q=0")):
        answer = await ask(gate, LONG, headers=headers)
        assert "content-encoding" not in answer.headers
        assert answer.headers["vary"] == "Accept-Encoding"  # others may get another
        assert answer.json["outputs"][0]["data"] == [0.25] * 2000


async def test_sizes_that_are_not_compressed(site: Site) -> None:
    gate = await gate_to(site, ModelServer())
    for size in (COMPRESS_LEAST // 8, COMPRESS_MOST):
        body, headers = binary((tensor([], "UINT8", shape=[size]), bytes(size)))
        answer = await ask(gate, body, headers={**headers, **accepting("gzip")})
        assert "content-encoding" not in answer.headers
        assert "vary" not in answer.headers
        assert answer.binary == bytes(size)


async def test_what_would_not_be_shorter_is_sent_as_it_is(site: Site) -> None:
    gate = await gate_to(site, ModelServer())
    data = random.Random(1).randbytes(100_000)
    body, headers = binary((tensor([], "UINT8", shape=[len(data)]), data))
    answer = await ask(gate, body, headers={**headers, **accepting("gzip")})
    assert "content-encoding" not in answer.headers
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.binary == data


async def test_cached_answers_have_the_coding_of_each_client(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, cached=True)
    assert (await ask(gate, LONG)).cache == "tidegate; fwd=miss; stored"
    for coding in ("gzip", "deflate"):
        answer = await ask(gate, LONG, headers=accepting(coding))
        assert (answer.cache, answer.headers["content-encoding"]) == ("tidegate; hit", coding)
        assert plain_of(answer).json["outputs"][0]["data"] == [0.25] * 2000
    assert len(model.requests) == 1


async def test_errors_are_not_compressed(site: Site) -> None:
    gate = await gate_to(site, ModelServer())
    answer = await ask(gate, b"{", headers=accepting("gzip"))
    assert (answer.status, "content-encoding" in answer.headers) == (400, False)
    assert list(json.loads(answer.body)) == ["error"]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("in_binary", [True, False])
async def test_the_stock_client(site: Site, coding: str, in_binary: bool) -> None:
    gate = await gate_to(site, ModelServer())
    values = np.arange(3000, dtype="f4").reshape(3, 1000)

    def infer() -> Any:
        given = triton.InferInput("x", [3, 1000], "FP32")
        given.set_data_from_numpy(values)
        wanted = [triton.InferRequestedOutput("x", binary_data=in_binary)]
        client = triton.InferenceServerClient(f"127.0.0.1:{gate.port}")
        return client.infer("m", [given], outputs=wanted, response_compression_algorithm=coding).as_numpy("x")

    np.testing.assert_array_equal(await asyncio.to_thread(infer), values)
    assert gate.total(2)["sent_bytes"] < 12_000
