"""CDNs are told of purges: gathered, again after failures, and by the APIs that they document.

Cloudflare is a server here that answers as its documentation of purge_cache says; CloudFront is moto's emulation.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from aiohttp import web
from ports import free_port, wait_for_port
from pydantic import ValidationError

from lb.cache import tags
from lb.config.schema.file import CacheConfig
from lb.config.schema.purge import CloudflareConfig, CloudFrontConfig, PurgeConfig
from lb.control.cache import cdn as module
from lb.control.cache.cdn import CdnError, CdnPurges
from lb.control.cache.cdns import Cdns
from lb.control.cache.cloudflare import Cloudflare
from lb.control.cache.cloudfront import CloudFront, paths_of

ZONE = "0123456789abcdef0123456789abcdef"


class Fake:
    """A CDN that fails as often as it is told to."""

    name = "Fake"
    most = 3

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls: list[list[str]] = []
        self.during: Callable[[], None] = lambda: None
        self.closed = False

    async def purge(self, tags: Sequence[str]) -> None:
        self.calls.append(list(tags))
        await asyncio.sleep(0)
        self.during()
        if self.failures:
            raise self.failures.pop(0)

    async def close(self) -> None:
        self.closed = True


class Pauses:
    """Takes no time, and keeps what was waited for."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.seen.append(seconds)
        await asyncio.sleep(0)


async def settled(purges: CdnPurges) -> None:
    async with asyncio.timeout(20):
        while purges.status()["waiting"] or not purges._idle.is_set():
            await asyncio.sleep(0.001)


async def test_purges_are_gathered_and_divided() -> None:
    fake, pauses = Fake(), Pauses()
    purges = CdnPurges(fake, pauses.sleep)
    for tag in ("a", "b", "a", "c", "d"):
        purges.add([tag])
    await settled(purges)
    assert fake.calls == [["a", "b", "c"], ["d"]]
    purges.add(["a"])
    await settled(purges)
    assert fake.calls[2:] == [["a"]]
    assert purges.status() == {"name": "Fake", "purges": 3, "failures": 0, "waiting": 0, "error": None}
    await purges.close()
    assert fake.closed


async def test_failures_are_tried_again_ever_more_seldom_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    fake, pauses = Fake(*(CdnError(f"no {n}") for n in range(10)), CdnError("busy", pause=1000.0)), Pauses()
    purges = CdnPurges(fake, pauses.sleep, lambda: 0.0)
    purges.add(["a"])
    with caplog.at_level("INFO"):
        await settled(purges)
    assert fake.calls == [["a"]] * 12
    waits = [pause for pause in pauses.seen if pause != module.GATHER]
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 1000]
    assert [record.message for record in caplog.records] == [
        "Fake is not told of purges, which is tried again: no 0",
        "Fake takes purges again, after 11 failures",
    ]
    assert purges.status()["failures"] == 11
    await purges.close()


async def test_what_is_purged_again_while_it_is_told_is_told_again() -> None:
    fake, pauses = Fake(), Pauses()
    purges = CdnPurges(fake, pauses.sleep)
    again = iter([True])
    fake.during = lambda: purges.add(["a"]) if next(again, False) else None
    purges.add(["a"])
    await settled(purges)
    assert fake.calls == [["a"], ["a"]]
    await purges.close()


async def test_an_unforeseen_failure_loses_nothing() -> None:
    fake, pauses = Fake(ValueError("x")), Pauses()
    purges = CdnPurges(fake, pauses.sleep)
    purges.add(["a"])
    await settled(purges)
    assert fake.calls == [["a"], ["a"]]
    await purges.close()


async def test_too_many_tags_become_those_of_their_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 4)
    fake, pauses = Fake(), Pauses()
    purges = CdnPurges(fake, pauses.sleep)
    purges.add([tags.of_model("p", str(n)) for n in range(5)])
    purges.add(["own"])
    await settled(purges)
    assert fake.calls == [["pool:p", "own"]]
    await purges.close()


async def test_a_stop_is_not_held_by_a_cdn_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake(*(CdnError("no") for _ in range(1000)))
    purges = CdnPurges(fake, Pauses().sleep)
    purges.add(["a"])
    while not purges.status()["error"]:
        await asyncio.sleep(0)
    await purges.close()
    assert "was not told of purges before the stop: a" in caplog.text


# Cloudflare.


class Api:
    """POST /client/v4/zones/ZONE/purge_cache as documented: {"tags": [...]} -> {"success", "errors", "messages",
    "result": {"id"}}."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.answers: list[web.Response] = []

    async def start(self) -> str:
        app = web.Application()
        app.router.add_post("/client/v4/zones/{zone}/purge_cache", self.purge)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        port = free_port()
        await web.TCPSite(self.runner, "127.0.0.1", port).start()
        return f"http://127.0.0.1:{port}/client/v4"

    async def purge(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        if self.answers:
            return self.answers.pop(0)
        if request.headers["Authorization"] != "Bearer secret":
            errors = [{"code": 10000, "message": "Authentication error"}]
            return web.json_response({"success": False, "errors": errors, "messages": [], "result": None}, status=403)
        zone = request.match_info["zone"]
        assert len(self.bodies[-1].get("tags", [])) <= 100
        assert len(self.bodies[-1].get("files", [])) <= 30
        return web.json_response({"success": True, "errors": [], "messages": [], "result": {"id": zone}})


async def test_cloudflare_is_told_tags(tmp_path: Path) -> None:
    api, token = Api(), tmp_path / "token"
    cloudflare = Cloudflare(CloudflareConfig(zone=ZONE, token_file=token, url=await api.start()))
    with pytest.raises(CdnError, match="cannot be read: No such file"):
        await cloudflare.purge(["a"])
    token.write_text("wrong\n")
    with pytest.raises(CdnError, match=r"403: Authentication error \(10000\)"):
        await cloudflare.purge(["a"])
    token.write_text("secret\n")
    api.bodies.clear()
    purges = CdnPurges(cloudflare, Pauses().sleep)
    purges.add([tags.of_model("p", f"m/{n}") for n in range(150)])
    await settled(purges)
    assert [len(body["tags"]) for body in api.bodies] == [100, 50]
    assert api.bodies[0]["tags"][7] == "model:p/m%2F7"
    api.bodies.clear()
    purges.add(["own", *(f"url:example.org/{n}?x" for n in range(16))])
    await settled(purges)
    assert [sorted(body) for body in api.bodies] == [["tags"], ["files"], ["files"]]
    assert api.bodies[0]["tags"] == ["own"]
    assert api.bodies[2]["files"] == ["https://example.org/15?x", "http://example.org/15?x"]
    await purges.close()
    await api.runner.cleanup()


async def test_what_cloudflare_answers_otherwise(tmp_path: Path) -> None:
    api, token = Api(), tmp_path / "token"
    token.write_text("secret")
    cloudflare = Cloudflare(CloudflareConfig(zone=ZONE, token_file=token, url=await api.start()))
    for answer, words, pause in (
        (web.Response(status=429, headers={"Retry-After": "17"}), "429: no reason is given", 17.0),
        (web.Response(status=200, text="<html>"), "200: <html>", 0.0),
        (web.json_response({"success": False, "errors": [{"code": 1, "message": "x"}]}), r"200: x \(1\)", 0.0),
        (web.json_response([]), r"200: \[\]", 0.0),
        (web.json_response({"errors": 7}, status=500, headers={"Retry-After": "soon"}), "500: ", 0.0),
    ):
        api.answers.append(answer)
        with pytest.raises(CdnError, match=words) as caught:
            await cloudflare.purge(["a"])
        assert caught.value.pause == pause
    await api.runner.cleanup()
    with pytest.raises(CdnError, match="Cannot connect"):
        await cloudflare.purge(["a"])
    await cloudflare.close()


# CloudFront.


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_port(port)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(20)


async def test_cloudfront_is_told_paths(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    client = botocore.session.get_session().create_client("cloudfront", region_name="us-east-1", endpoint_url=moto)
    origin = {"Id": "o", "DomainName": "s.s3.amazonaws.com", "S3OriginConfig": {"OriginAccessIdentity": ""}}
    origins = {"Quantity": 1, "Items": [origin]}
    made = client.create_distribution(
        DistributionConfig={
            "CallerReference": "x", "Origins": origins, "Comment": "", "Enabled": True,
            "DefaultCacheBehavior": {"TargetOriginId": "o", "ViewerProtocolPolicy": "allow-all", "MinTTL": 0,
                                     "ForwardedValues": {"QueryString": False, "Cookies": {"Forward": "none"}}},
        }
    )  # fmt: skip
    name = made["Distribution"]["Id"]
    purges = CdnPurges(
        CloudFront(CloudFrontConfig(distribution=name, region="us-east-1", endpoint_url=moto)), Pauses().sleep
    )
    purges.add([tags.of_model("p", "digits"), tags.of_version("p", "digits", "3")])
    await settled(purges)
    (row,) = client.list_invalidations(DistributionId=name)["InvalidationList"]["Items"]
    found = client.get_invalidation(DistributionId=name, Id=row["Id"])["Invalidation"]["InvalidationBatch"]
    assert found["Paths"] == {"Quantity": 1, "Items": ["/v2/models/digits/*"]}
    await purges.close()

    other = CloudFront(CloudFrontConfig(distribution="NONE", region="us-east-1", endpoint_url=moto))
    with pytest.raises(CdnError, match="NoSuchDistribution"):
        await other.purge(["pool:p"])
    await other.close()


def test_the_paths_of_tags() -> None:
    one = ["/v2/models/{model}/*"]
    assert paths_of(["model:p/a", "model:q/a/", "model:p/b%2Fc/7"], one) == ["/v2/models/a/*", "/v2/models/b%2Fc/*"]
    assert paths_of(["model:p/a", "pool:p"], one) == ["/v2/models/*"]
    assert paths_of(["url:example.org/a?b", "model:p/a"], one) == ["/v2/models/a/*", "/a?b"]
    assert paths_of(["url:example.org/"], one) == ["/"]
    assert paths_of(["own"], one) == ["/v2/models/*"]
    assert paths_of(["model:"], one) == ["/v2/models/*"]
    assert paths_of([f"model:p/{n}" for n in range(15)], one) == [f"/v2/models/{n}/*" for n in range(15)]
    assert paths_of([f"model:p/{n}" for n in range(16)], one) == ["/v2/models/*"]
    assert paths_of(["model:p/a"], ["/x/{model}/*", "/all"]) == ["/x/a/*", "/all"]
    assert paths_of(["pool:p"], ["/x/{model}/*", "/all"]) == ["/x/*", "/all"]


# The configuration.


async def test_the_cdns_follow_the_configuration(tmp_path: Path) -> None:
    api, token = Api(), tmp_path / "token"
    token.write_text("secret")
    url = await api.start()
    cdns = Cdns()
    cdns.apply(CacheConfig())
    cdns.purged(["a"])
    assert cdns.status() == []
    made = {"cloudflare": {"zone": ZONE, "token_file": str(token), "url": url}}
    for _ in range(2):
        cdns.apply(CacheConfig(purge=PurgeConfig.model_validate(made)))
    cdns.purged(["b"])
    assert [row["name"] for row in cdns.status()] == ["Cloudflare"]
    await cdns.close()
    assert [body["tags"] for body in api.bodies] == [["b"]]
    assert json.dumps(cdns.status()) == "[]"
    await api.runner.cleanup()


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({}, "names no CDN"),
        ({"cloudflare": {"zone": "x", "token_file": "t"}}, "is no zone id"),
        ({"cloudflare": {"zone": ZONE}}, "token_file"),
        ({"cloudfront": {"distribution": "e 1"}}, "is no id of a distribution"),
        ({"cloudfront": {"distribution": "E1", "paths": ["x"]}}, "is no path"),
        ({"cloudfront": {"distribution": "E1", "paths": []}}, "at least 1"),
        ({"fastly": {}}, "fastly"),
    ],
)
def test_sections_that_are_wrong(section: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        PurgeConfig.model_validate(section)
