"""Results by GET: URLs that a CDN may keep, for whom, and for how long; and the tags of answers."""

from __future__ import annotations

import asyncio
import base64
import gzip
import os
from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from datapath import Gate, Site
from infer_site import MIB, error_of, gate_to, idle
from msgspec.structs import replace
from oip_site import INFER, Answer, ModelServer, ask, binary, echo, failing, floats, plain, tensor

from lb.cache import tags
from lb.cache.store import ResultCache
from lb.config.plan.cache_key import CacheKeyPlan
from lb.config.plan.caching import FreshnessPlan
from lb.config.plan.routes import SharePlan, SplitPlan

SECOND = 1_000_000_000
TENANT = CacheKeyPlan(tenant="header", tenant_name="x-tenant")


async def gate_of(site: Site, *servers: ModelServer, **route: Any) -> Gate:
    route = {"freshness": FreshnessPlan(600 * SECOND), **route}
    return await gate_to(site, *servers, cached=True, route={"results_by_get": True, **route})


def apply_tags(site: Site, gate: Gate, header: str) -> None:
    assert gate.plan.cache is not None
    plan = replace(gate.plan, cache=replace(gate.plan.cache, tags_header=header))
    gate.proxy.apply(plan, {"web": site.descriptors[gate.port]})


def place(answer: Answer, path: str = INFER) -> str:
    """The URL that an answer to a request for `path` names."""
    location = answer.headers["content-location"]
    assert location.startswith("results/")
    return path.removesuffix("infer") + location


async def get(gate: Gate, path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Answer:
    return await ask(gate, b"", path, method, headers)


def gone(answer: Answer) -> bool:
    if answer.status != 404:
        return False
    assert answer.headers["cache-control"] == "no-store"
    assert "etag" not in answer.headers
    assert "cache-tag" not in answer.headers
    assert error_of(answer).startswith("there is no such result")
    return True


async def test_a_result_is_what_the_answer_was(site: Site) -> None:
    model = ModelServer()
    gate = await gate_of(site, model)
    for expected in ("tidegate; fwd=miss; stored", "tidegate; hit"):
        posted = await ask(gate, plain())
        assert posted.cache == expected
        for _ in range(2):
            answer = await get(gate, place(posted))
            assert (answer.status, answer.json, answer.cache) == (200, posted.json, "tidegate; hit")
            assert answer.headers["cache-control"] in ("public, max-age=599", "public, max-age=600")
            assert "age" not in answer.headers
            assert "set-cookie" not in answer.headers
            assert answer.headers["content-type"] == "application/json"
    assert len(model.requests) == 1
    cache = gate.total(2).values("cache")
    assert (cache["hit"], cache["miss"]) == (5, 1)
    await idle(gate)


async def test_one_url_for_all_forms_of_a_question(site: Site) -> None:
    gate = await gate_of(site, ModelServer())
    body, headers = binary((tensor([], shape=[2]), floats(1.5, -2.0)))
    posted = [await ask(gate, plain(id="a")), await ask(gate, body, headers=headers), await ask(gate, plain())]
    assert len({place(each) for each in posted}) == 1
    assert (await get(gate, place(posted[0]))).json == posted[2].json
    other = await ask(gate, plain(tensor([1.5, 2.0])))
    assert place(other) != place(posted[0])
    assert (await get(gate, place(other))).json["outputs"][0]["data"] == [1.5, 2.0]


async def test_a_head_has_the_fields_and_no_body(site: Site) -> None:
    gate = await gate_of(site, ModelServer())
    path = place(await ask(gate, plain()))
    answer = await get(gate, path)
    raw = await gate.exchange(f"HEAD {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
    head, body = raw.split(b"\r\n\r\n")
    assert body == b""
    assert head.startswith(b"HTTP/1.1 200 ")
    for name in ("ETag", "Content-Length", "Content-Type"):
        assert f"{name}: {answer.headers[name.lower()]}".encode() in head


@pytest.mark.parametrize(
    ("asked", "status"),
    [("{}", 304), ('"other", {}', 304), ("*", 304), ('"other"', 200), ("", 200), ('W/"', 200)],
)
async def test_who_has_it_is_told_so(site: Site, asked: str, status: int) -> None:
    gate = await gate_of(site, ModelServer())
    path = place(await ask(gate, plain()))
    first = await get(gate, path)
    tag = first.headers["etag"]
    for method in ("GET", "HEAD"):
        raw = await gate.exchange(
            f"{method} {path} HTTP/1.1\r\nHost: test\r\nIf-None-Match: {asked.format(tag)}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        head, body = raw.split(b"\r\n\r\n", 1)
        assert head.startswith(f"HTTP/1.1 {status} ".encode())
        assert f"ETag: {tag}".encode() in head
        assert b"Cache-Control: public, max-age=" in head
        assert body == (first.body if status == 200 and method == "GET" else b"")
        assert (b"Content-Length" in head) == (status == 200)
    await idle(gate)


async def test_the_etag_is_of_what_the_endpoint_said(site: Site) -> None:
    model = ModelServer()
    gate = await gate_of(site, model)
    first = await get(gate, place(await ask(gate, plain())))
    ResultCache(gate.segment, MIB).purge(tags.of_model("pool", "m").encode())
    again = await get(gate, place(await ask(gate, plain())))
    assert len(model.requests) == 2
    assert first.headers["etag"] == again.headers["etag"]
    ResultCache(gate.segment, MIB).purge(tags.of_model("pool", "m").encode())

    async def other(request: Any, context: Any) -> Any:
        request.raw_input_contents[0] = floats(7, 8)
        return await echo(request, context)

    model.behave = other
    changed = await get(gate, place(await ask(gate, plain())))
    assert changed.json["outputs"][0]["data"] == [7.0, 8.0]
    assert changed.headers["etag"] != first.headers["etag"]


async def test_a_large_result_is_compressed_and_says_so(site: Site) -> None:
    gate = await gate_of(site, ModelServer())
    posted = await ask(gate, plain(tensor([0.0] * 5000)))
    answer = await get(gate, place(posted), {"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "Accept-Encoding"
    assert gzip.decompress(answer.body) == posted.body
    raw = await gate.exchange(
        f"GET {place(posted)} HTTP/1.1\r\nHost: test\r\nIf-None-Match: *\r\nConnection: close\r\n\r\n".encode()
    )
    assert b"Vary: Accept-Encoding\r\n" in raw


@pytest.mark.parametrize(
    "token",
    ["", "A", "A" * 42, "A" * 43, "A" * 44, "A" * 7000, "=" * 43, "A" * 42 + "B", "%41" * 43, "A" * 42 + "=",
     "A" * 21 + "/" + "A" * 21, "..", "A" * 42 + "%00", "\u00e9" * 21 + "A"],
)  # fmt: skip
async def test_hostile_tokens(site: Site, token: str) -> None:
    model = ModelServer()
    gate = await gate_of(site, model)
    await ask(gate, plain())
    for prefix in ("/v2/models/m/results/", "/v2/models/m/versions/1/results/"):
        answer = await get(gate, prefix + token)
        assert answer.status in (404, 400 if "\u00e9" in token else 404)
        assert "no-store" in answer.headers.get("cache-control", "no-store")
    assert len(model.requests) == 1
    await idle(gate)


async def test_each_bit_of_a_token_counts(site: Site) -> None:
    gate = await gate_of(site, ModelServer())
    path = place(await ask(gate, plain()))
    prefix, _, token = path.rpartition("/")
    made = base64.urlsafe_b64decode(token + "=")
    for at in range(32):
        changed = bytearray(made)
        changed[at] ^= 1 << at % 8
        text = base64.urlsafe_b64encode(changed).rstrip(b"=").decode()
        assert gone(await get(gate, f"{prefix}/{text}"))
    assert gone(await get(gate, f"{prefix}/{base64.urlsafe_b64encode(os.urandom(32)).decode()[:43]}"))
    # Of the last character two bits have no meaning: there is one text for each token, so that caches have one entry.
    assert gone(await get(gate, path[:-1] + chr(ord(path[-1]) + 1)))
    assert (await get(gate, path)).status == 200


@pytest.mark.parametrize(
    "other",
    [
        "/v2/models/n/", "/v2/models/m/versions/1/", "/v2/models/M/", "/v2/models/m%00/", "/v2/models//",
        "/v2/models/m/x/",
    ],
)  # fmt: skip
async def test_a_token_is_of_its_model_and_version(site: Site, other: str) -> None:
    gate = await gate_of(site, ModelServer())
    mine = (await ask(gate, plain())).headers["content-location"]
    assert (await get(gate, other + mine)).status == 404
    versioned = "/v2/models/m/versions/1/infer"
    theirs = await ask(gate, plain(), path=versioned)
    assert (await get(gate, place(theirs, versioned))).status == 200
    assert (await get(gate, place(theirs))).status == 404
    assert (await get(gate, f"/v2/models/%6d/{mine}")).status == 200


async def test_a_purge_takes_the_result(site: Site) -> None:
    model = ModelServer()
    gate = await gate_of(site, model)
    path = place(await ask(gate, plain()))
    assert (await get(gate, path)).status == 200
    ResultCache(gate.segment, MIB).purge(tags.of_model("pool", "m").encode())
    assert gone(await get(gate, path))
    assert gone(await get(gate, path, {"If-None-Match": "*"}))
    assert place(await ask(gate, plain())) == path
    assert (await get(gate, path)).status == 200
    assert len(model.requests) == 2


async def test_a_stale_answer_has_no_url(site: Site) -> None:
    model = ModelServer()
    gate = await gate_of(site, model, freshness=FreshnessPlan(50_000_000, 600 * SECOND, 600 * SECOND))
    posted = await ask(gate, plain())
    await asyncio.sleep(0.1)
    assert gone(await get(gate, place(posted)))
    stale = await ask(gate, plain())
    assert (stale.cache, "content-location" in stale.headers) == ("tidegate; hit; detail=stale-while-revalidate", False)


async def test_what_is_not_kept_has_no_url(site: Site) -> None:
    model = ModelServer()
    gate = await gate_of(site, model, cache_key=CacheKeyPlan(control=True))
    for answer in (
        await ask(gate, plain(parameters={"sequence_id": 7, "sequence_start": True})),
        await ask(gate, plain(), headers={"Cache-Control": "no-store"}),
    ):
        assert (answer.cache, "content-location" in answer.headers) == ("tidegate; fwd=bypass", False)
    made = await ask(gate, plain(), headers={"Cache-Control": "no-cache"})
    assert (await get(gate, place(made), {"Cache-Control": "no-cache"})).json == made.json
    model.behave = failing(grpc.StatusCode.INVALID_ARGUMENT, "no")
    refused = await ask(gate, plain(tensor([9.0])))
    assert (refused.status, "content-location" in refused.headers) == (400, False)


async def test_routes_without_the_option_have_no_urls(site: Site) -> None:
    gate = await gate_to(site, ModelServer(), cached=True)
    posted = await ask(gate, plain())
    assert "content-location" not in posted.headers
    assert "cache-tag" not in posted.headers
    assert (await get(gate, "/v2/models/m/results/" + "A" * 43)).status == 404


async def test_tenants_read_their_own_results(site: Site) -> None:
    gate = await gate_of(site, ModelServer(), cache_key=TENANT)
    paths = {name: place(await ask(gate, plain(), headers={"X-Tenant": name})) for name in ("a", "b")}
    assert len(set(paths.values())) == 2
    for owner, path in paths.items():
        for reader in ("a", "b", "", None):
            answer = await get(gate, path, {"X-Tenant": reader} if reader is not None else None)
            if reader == owner:
                assert answer.status == 200
                assert answer.headers["cache-control"].startswith("private, max-age=")
                assert answer.headers["vary"] == "x-tenant"
            else:
                assert gone(answer), (owner, reader)
    ResultCache(gate.segment, MIB).purge(tags.of_tenant("a").encode())
    assert gone(await get(gate, paths["a"], {"X-Tenant": "a"}))
    assert (await get(gate, paths["b"], {"X-Tenant": "b"})).status == 200


@pytest.mark.parametrize("kind", ["cookie", "query"])
async def test_tenants_by_other_means(site: Site, kind: str) -> None:
    gate = await gate_of(site, ModelServer(), cache_key=CacheKeyPlan(tenant=kind, tenant_name="who"))

    def of(name: str, path: str) -> tuple[str, dict[str, str]]:
        return (path, {"Cookie": f"who={name}"}) if kind == "cookie" else (f"{path}?who={name}", {})

    path, headers = of("a", INFER)
    target = place(await ask(gate, plain(), path=path, headers=headers))
    for name, status in (("a", 200), ("b", 404), ("", 404)):
        path, headers = of(name, target)
        answer = await get(gate, path, headers)
        assert answer.status == status
        assert status == 404 or answer.headers["cache-control"].startswith("private, ")
        assert answer.headers.get("vary") == ("cookie" if kind == "cookie" and status == 200 else None)
    assert (await get(gate, target)).status == 404


async def test_headers_that_the_route_varies_by(site: Site) -> None:
    gate = await gate_of(site, ModelServer(), cache_key=CacheKeyPlan(vary=("x-a", "x-b")))
    path = place(await ask(gate, plain(), headers={"X-A": "1"}))
    answer = await get(gate, path, {"X-A": "1"})
    assert (answer.status, answer.headers["vary"]) == (200, "x-a, x-b")
    assert answer.headers["cache-control"].startswith("public, ")
    for fields in ({}, {"X-A": "2"}, {"X-B": "1"}, {"X-A": "1", "X-B": ""}):
        assert gone(await get(gate, path, fields))


async def test_answers_to_credentials_are_private(site: Site) -> None:
    """What checks them may stand between the CDN and Tidegate (RFC 9111 section 3.5)."""
    gate = await gate_of(site, ModelServer())
    path = place(await ask(gate, plain()))
    answer = await get(gate, path, {"Authorization": "Bearer x"})
    assert answer.headers["cache-control"].startswith("private, ")


async def test_answers_with_tags_of_clients_are_private(site: Site) -> None:
    """A CDN could not be told of a purge of these."""
    gate = await gate_of(site, ModelServer(), client_tags=True)
    tagged = place(await ask(gate, plain(), headers={"Cache-Tag": "camera"}))
    untagged = place(await ask(gate, plain()))
    assert tagged != untagged
    for path, said in ((tagged, "private"), (untagged, "public")):
        assert (await get(gate, path)).headers["cache-control"].startswith(f"{said}, ")
    ResultCache(gate.segment, MIB).purge(b"camera")
    assert gone(await get(gate, tagged))
    assert (await get(gate, untagged)).status == 200


async def test_bytes_that_are_no_text(site: Site) -> None:
    gate = await gate_of(site, ModelServer())
    data = b"\x02\0\0\0\xff\xfe"
    body, headers = binary((tensor([], "BYTES", shape=[1]), data))
    posted = await ask(gate, body, headers=headers)
    assert posted.binary == data
    answer = await get(gate, place(posted))
    assert (answer.status, answer.headers["cache-control"]) == (406, "no-store")
    await idle(gate)


async def test_splits_find_the_pool_of_the_answer(site: Site) -> None:
    addresses = [[await site.model(ModelServer())] for _ in range(2)]
    split = SplitPlan(shares=(SharePlan(0, 1), SharePlan(1, 1)))
    gate = await site.gate(
        addresses[0], more_pools=addresses[1:], pool={"protocol": "oip"}, cache_size=8 * MIB,
        route={"pool": -1, "split": split, "results_by_get": True, "freshness": FreshnessPlan(600 * SECOND)},
    )  # fmt: skip
    paths = {place(await ask(gate, plain(tensor([float(i % 2)])))) for i in range(40)}
    assert len(paths) == 4  # two questions, two pools
    for path in paths:
        assert [(await get(gate, path)).status for _ in range(6)] == [200] * 6


@pytest.mark.parametrize(("header", "separator"), [("Cache-Tag", ","), ("Surrogate-Key", " ")])
async def test_answers_carry_their_tags(site: Site, header: str, separator: str) -> None:
    gate = await gate_of(site, ModelServer(), cache_key=TENANT)
    apply_tags(site, gate, header)
    tenant = {"X-Tenant": "A, \u00e9 b"}
    expected = separator.join([*tags.of_answer("pool", "m", ""), tags.of_tenant("A, \u00e9 b")])
    reader = tenant
    posted = [await ask(gate, plain(), headers=tenant) for _ in range(2)]
    result = await get(gate, place(posted[0]), reader)
    assert [each.headers[header.lower()] for each in (*posted, result)] == [expected] * 3
    versioned = "/v2/models/m/versions/3/infer"
    answer = await ask(gate, plain(), path=versioned, headers=tenant)
    assert answer.headers[header.lower()].split(separator)[2] == "model:pool/m/3"
    passed_by = await ask(gate, plain(parameters={"sequence_id": 7}), headers=tenant)
    assert header.lower() not in passed_by.headers
    assert header.lower() not in (await ask(gate, plain())).headers
    apply_tags(site, gate, "")
    assert header.lower() not in (await ask(gate, plain(), headers=tenant)).headers


async def test_tags_that_no_cdn_takes_are_left_out(site: Site) -> None:
    gate = await gate_of(site, ModelServer())
    apply_tags(site, gate, "Cache-Tag")
    answer = await ask(gate, plain(), path=f"/v2/models/{'m' * 2000}/infer")
    assert answer.headers["cache-tag"] == "pool:pool"
