"""Who may ask, through real daemons: keys, certificates, and what goes by the identity."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import bcrypt
import grpc
import pytest
from aiohttp import web
from authority import Authority
from daemon import Daemon, digits_pool, http_listener
from echo import Echo, curl
from joserfc import jwk, jws
from traffic import DIGITS_INFER, ask_once, digit_request, digit_samples, request
from waiting import eventually, logged

Start = Callable[..., Daemon]
NAME = "X-Tidegate-Identity"


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    made = Echo()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield session


def key_line(name: str, key: str) -> str:
    return f"{name}:sha256:{hashlib.sha256(key.encode()).hexdigest()}\n"


def keys_file(folder: Path, *lines: str) -> Path:
    path = folder / "keys"
    path.write_text("".join(lines))
    return path


def config(echo: Echo, keys: Path, *routes: dict[str, Any], **settings: Any) -> dict[str, Any]:
    providers = {
        "keys": {"type": "api_key", "file": str(keys)},
        "bearer": {"type": "api_key", "file": str(keys), "header": "Authorization"},
        "url": {"type": "api_key", "file": str(keys), "query": "api_key"},
    }
    return {
        "auth": providers,
        "listeners": {"web": http_listener(*(routes or ({"auth": "keys", "pool": "app"},)))},
        "pools": {"app": {"protocol": "http", "endpoints": [echo.address]}},
        **settings,
    }


def told(document: dict[str, Any], name: str = NAME) -> list[str]:
    return [value for field, value in document["fields"] if field.replace("_", "-") == name.lower()]


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
async def test_keys_over_both_versions_of_http(start: Start, echo: Echo, tmp_path: Path, version: str) -> None:
    made = config(
        echo,
        keys_file(tmp_path, key_line("team-a", "key-a"), "# a comment\n", key_line("team-a", "key-a2")),
        {"match": {"path": {"prefix": "/url"}}, "auth": "url", "pool": "app"},
        {"match": {"path": {"prefix": "/both"}}, "auth": ["keys", "bearer"], "pool": "app"},
        {"match": {"path": {"prefix": "/few"}}, "auth": {"providers": ["keys"], "allow": ["team-b"]}, "pool": "app"},
        {
            "match": {"path": {"prefix": "/bare"}},
            "auth": {"providers": ["keys"], "forward_identity": False, "forward_credential": True},
            "pool": "app",
        },
        {"match": {"path": {"prefix": "/open"}}, "pool": "app"},
        {"auth": "keys", "pool": "app"},
        log={"access": "access.log"},
    )
    only: dict[str, Any] = {"match": {"path": {"exact": "/only"}}, "respond": {"status": 204}}
    made["listeners"]["other"] = http_listener(only)
    daemon = start(made)
    base = f"http://127.0.0.1:{daemon.port()}"

    async def ask(path: str, *fields: str) -> tuple[int, Any]:
        options = [part for field in fields for part in ("-H", field)]
        text = await curl(version, "-w", "\n%{http_code}", *options, base + path)
        body, _, status = text.rpartition("\n")
        return int(status), json.loads(body)

    head = await curl(version, "-D", "-", base + "/both")
    assert "401" in head.split("\n")[0]
    assert head.lower().count("www-authenticate:") == 2
    assert 'ApiKey realm="keys"' in head
    assert 'Bearer realm="bearer"\n' in head
    head = await curl(version, "-D", "-", "-H", "Authorization: Bearer no", base + "/both")
    assert 'Bearer realm="bearer", error="invalid_token"' in head

    spoofed = (f"{NAME}: root", "X_Tidegate_Identity: root", f"Connection: {NAME}")
    for key in ("key-a", "key-a2"):
        status, document = await ask("/", f"X-Api-Key: {key}", *(spoofed if version == "--http1.1" else spoofed[:2]))
        assert (status, told(document), told(document, "x-api-key")) == (200, ["team-a"], [])
    assert (await ask("/", "X-Api-Key: key-b"))[0] == 401
    assert (await ask("/", "X-Api-Key;"))[0] == 401  # an empty one
    assert (await ask("/", "X-Api-Key: key-a", "X-Api-Key: key-a"))[0] == 401  # which of them is it?
    assert (await ask("/both", "Authorization: bearer key-a"))[0] == 200
    assert (await ask("/both", "Authorization: Basic a2V5LWE="))[0] == 401
    assert (await ask("/few", "X-Api-Key: key-a"))[0] == 403
    status, document = await ask("/bare", "X-Api-Key: key-a", f"{NAME}: root")
    assert (status, told(document), told(document, "x-api-key")) == (200, [], ["key-a"])
    status, document = await ask("/open", f"{NAME}: root", "X_Tidegate.Identity: root")
    assert (status, told(document)) == (200, [])
    for query, left in (("?api_key=key-a", ""), ("?a=1&api_key=key-a&b=2", "?a=1&b=2"), ("?api_key=key-a&c", "?c")):
        status, document = await ask("/url" + query)
        assert (status, document["target"], told(document)) == (200, "/url" + left, ["team-a"])
    assert (await ask("/url?api_key=key-a&api_key=key-a"))[0] == 401
    assert (await ask("/url?api_key=key-a&api%5Fkey=key-b"))[0] == 401

    # Of who sends it to the wrong place: a path without a key, one that nobody takes, a request that is none.
    other = f"http://127.0.0.1:{daemon.port('other')}"
    assert (await ask("/open?api_key=key-a"))[0] == 200
    for place, status in (("/only", "204"), ("/no", "404"), ("/%zz", "400")):
        got = await curl(version, "-o", "/dev/null", "-w", "%{http_code}", f"{other}{place}?api_key=key-a")
        assert got == status, place

    path = daemon.folder / "access.log"
    await asyncio.to_thread(eventually, lambda: path.read_text().count("/url") == 5, "the log")
    await asyncio.to_thread(eventually, lambda: path.read_text().count('"other"') == 3, "the log")
    lines = await asyncio.to_thread(logged, path, lambda lines: any(line["target"] == "/few" for line in lines))
    assert "key-a" not in path.read_text()
    assert '"/no"' in path.read_text()
    assert {line["identity"] for line in lines if line["status"] == 200} == {"team-a", ""}
    (few,) = (line for line in lines if line["target"] == "/few")
    assert (few["reason"], few["identity"]) == ("forbidden", "team-a")


async def test_a_changed_file_of_keys_is_read_again_and_a_broken_one_is_not(
    start: Start, echo: Echo, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    keys = keys_file(tmp_path, key_line("team-a", "old"))
    daemon = start(config(echo, keys))
    url = f"http://127.0.0.1:{daemon.port()}/"

    async def status(key: str) -> int:
        async with client.get(url, headers={"X-Api-Key": key}) as answer:
            return answer.status

    async def wait_for(wanted: tuple[int, int]) -> None:
        async with asyncio.timeout(30):
            while (await status("old"), await status("new")) != wanted:
                await asyncio.sleep(0.1)

    await wait_for((200, 401))
    keys.write_text(key_line("team-a", "old") + key_line("team-a", "new"))
    await wait_for((200, 200))
    keys.write_text("new\n")
    await asyncio.to_thread(eventually, lambda: "line 1 is not NAME:sha256:HEX" in daemon.log, "a line in the log")
    assert await status("new") == 200
    keys.write_text(key_line("team-a", "new"))
    await wait_for((401, 200))
    assert "sha256" not in daemon.log.replace("NAME:sha256:HEX", "")


async def test_limits_go_by_the_identity_or_count_guesses(
    start: Start, echo: Echo, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    keys = keys_file(tmp_path, key_line("a", "key-a"), key_line("b", "key-b"))
    by_identity = {"rate": "1/d", "burst": 3, "key": {"identity": True}}
    by_source = {"rate": "1/d", "burst": 4}
    daemon = start(
        config(
            echo,
            keys,
            {"match": {"path": {"prefix": "/source"}}, "auth": "keys", "pool": "app", "rate_limit": by_source},
            {"auth": "keys", "pool": "app", "rate_limit": by_identity},
        )
    )
    base = f"http://127.0.0.1:{daemon.port()}"

    async def ask(path: str, key: str) -> int:
        async with client.get(base + path, headers={"X-Api-Key": key, NAME: "b"}) as answer:
            return answer.status

    seen = Counter([(key, await ask("/", key)) for key in ("key-a", "key-b", "no") for _ in range(5)])
    assert seen == {
        ("key-a", 200): 3, ("key-a", 429): 2, ("key-b", 200): 3, ("key-b", 429): 2, ("no", 401): 5
    }  # fmt: skip
    assert [await ask("/source", key) for key in ("no", "no", "no", "key-a", "key-a")] == [401, 401, 401, 200, 429]


async def test_grpc(start: Start, tmp_path: Path) -> None:
    async def unary(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return json.dumps(dict(context.invocation_metadata() or ())).encode()

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers = {"Unary": grpc.unary_unary_rpc_method_handler(unary)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Kinds", handlers),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    keys = keys_file(tmp_path, key_line("a", "key-a"), key_line("b", "key-b"))
    daemon = start(
        {
            "auth": {"keys": {"type": "api_key", "file": str(keys)}},
            "listeners": {"web": http_listener({"auth": {"providers": ["keys"], "allow": ["a"]}, "pool": "calls"})},
            "pools": {"calls": {"protocol": "grpc", "endpoints": [address]}},
        }
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{daemon.port()}") as channel:
        call = channel.unary_unary("/test.Kinds/Unary")
        seen = json.loads(await call(b"", metadata=(("x-api-key", "key-a"), (NAME.lower(), "root")), timeout=30))
        assert seen[NAME.lower()] == "a"
        assert "x-api-key" not in seen
        for metadata, code in (
            ((), grpc.StatusCode.UNAUTHENTICATED),
            ((("x-api-key", "no"),), grpc.StatusCode.UNAUTHENTICATED),
            ((("x-api-key", "key-b"),), grpc.StatusCode.PERMISSION_DENIED),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call(b"", metadata=metadata, timeout=30)
            assert error.value.code() == code
    await server.stop(None)


async def test_certificates(start: Start, echo: Echo, tmp_path: Path) -> None:
    authority, clients = Authority(), Authority("Clients")
    (tmp_path / "clients.pem").write_bytes(clients.pem)
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    cert, key = authority.issue("example.org").write(tmp_path)
    daemon = start(
        {
            "auth": {
                "machines": {"type": "mtls", "names": ["spiffe://td/*", "*.clients.org", "Alice B"]},
                "anybody": {"type": "mtls"},
                "keys": {"type": "api_key", "file": str(keys_file(tmp_path, key_line("a", "key-a")))},
            },
            "listeners": {
                "web": {
                    **http_listener(
                        {"match": {"path": {"prefix": "/any"}}, "auth": "anybody", "pool": "app"},
                        {"match": {"path": {"prefix": "/or"}}, "auth": ["machines", "keys"], "pool": "app"},
                        {"auth": "machines", "pool": "app"},
                    ),
                    "protocol": "https",
                    "tls": {
                        "certificates": [{"cert": cert, "key": key}],
                        "client_auth": "optional",
                        "client_ca": str(tmp_path / "clients.pem"),
                    },
                }
            },
            "pools": {"app": {"protocol": "http", "endpoints": [echo.address]}},
        }
    )
    port = daemon.port()

    async def ask(path: str, pair: Any = None, *options: str) -> tuple[int, list[str]]:
        shown = pair.write(tmp_path, "client") if pair is not None else ()
        more = ("--cert", shown[0], "--key", shown[1]) if shown else ()
        text = await curl(
            "--resolve", f"example.org:{port}:127.0.0.1", "--cacert", str(tmp_path / "ca.pem"), "-w", "\n%{http_code}",
            *more, *options, f"https://example.org:{port}{path}",
        )  # fmt: skip
        body, _, status = text.rpartition("\n")
        return int(status), told(json.loads(body)) if status == "200" else []

    assert await ask("/") == (403, [])
    assert await ask("/or") == (401, [])
    assert await ask("/or", None, "-H", "X-Api-Key: key-a") == (200, ["a"])
    spiffe = clients.issue("x.org", uris=("spiffe://td/a",), subject="n", client=True)
    assert await ask("/", spiffe) == (200, ["spiffe://td/a"])
    assert await ask("/any", spiffe) == (200, ["spiffe://td/a"])
    assert await ask("/", clients.issue("x.org", "m.clients.org", client=True)) == (200, ["m.clients.org"])
    assert await ask("/", clients.issue(subject="Alice B", client=True)) == (200, ["Alice B"])
    assert await ask("/", clients.issue(subject="Mallory", client=True)) == (403, [])
    assert await ask("/", clients.issue("clients.org", uris=("spiffe://td",), client=True)) == (403, [])
    # A pattern of hosts accepts no URI that ends as one: whoever chooses its path would choose the identity.
    other = clients.issue("x.org", uris=("spiffe://other/sa/m.clients.org",), subject="a b.clients.org", client=True)
    assert await ask("/", other) == (403, [])
    assert await ask("/any", clients.issue(subject="a\r\nX: b", client=True)) == (403, [])  # no header can say that


async def test_jobs_are_those_of_who_submitted_them(
    start: Start, echo: Echo, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    keys = keys_file(tmp_path, key_line("a", "key-a"), key_line("b", "key-b"))
    daemon = start(
        config(echo, keys, {"auth": "keys", "pool": "app", "jobs": True}, jobs={"path": str(tmp_path / "jobs.db")})
    )
    base = f"http://127.0.0.1:{daemon.port()}"
    submission = {"X-Api-Key": "key-a", "Prefer": "respond-async", NAME: "b"}
    async with client.post(f"{base}/x", data=b"abc", headers={"Prefer": "respond-async"}) as answer:
        assert answer.status == 401
    async with client.post(f"{base}/x", data=b"abc", headers=submission) as answer:
        assert answer.status == 202, await answer.text()
        place = base + answer.headers["Location"]
    for fields, status in (({}, 401), ({"X-Api-Key": "key-b"}, 404), ({"X-Api-Key": "key-b", NAME: "a"}, 404)):
        async with client.get(place, headers=fields) as answer:
            assert answer.status == status
    mine = {"X-Api-Key": "key-a", "Prefer": "wait=30"}
    async with client.get(f"{place}/result", headers=mine) as answer:
        assert answer.status == 200
        document = await answer.json()
    assert told(document) == ["a"]
    assert told(document, "x-api-key") == []


ISSUER = "https://issuer.example.org"


def write_keys(path: Path, *keys: Any) -> Path:
    listed = [{**key.as_dict(private=False), "kid": key.thumbprint()} for key in keys]
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"keys": listed}))
    fresh.rename(path)
    return path


def token(key: Any, alg: str = "RS256", **changes: Any) -> str:
    claims = {"iss": ISSUER, "aud": "gate", "sub": "alice", "exp": int(time.time()) + 600, **changes}
    return str(jws.serialize_compact({"alg": alg, "kid": key.thumbprint()}, json.dumps(claims), key, algorithms=[alg]))


def checked(echo: Echo, folder: Path, *keys: Any, **settings: Any) -> dict[str, Any]:
    (folder / "users").write_text(f"bob:{bcrypt.hashpw(b'secret', bcrypt.gensalt(6)).decode()}\n")
    sso = {"type": "jwt", "file": str(write_keys(folder / "jwks.json", *keys)), "issuer": ISSUER, "audience": ["gate"]}
    made = config(
        echo,
        keys_file(folder, key_line("carol", "key-c")),
        {"match": {"path": {"prefix": "/staff"}}, "auth": ["staff", "sso", "bearer"], "pool": "app"},
        {"auth": "sso", "pool": "app"},
        **settings,
    )
    made["auth"].update(sso=sso, staff={"type": "basic", "file": str(folder / "users")})
    return made


RSA = jwk.RSAKey.generate_key(2048)
EC = jwk.ECKey.generate_key("P-256")


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
async def test_tokens_and_passwords_with_bodies(start: Start, echo: Echo, tmp_path: Path, version: str) -> None:
    daemon = start(checked(echo, tmp_path, RSA, EC, log={"access": "access.log"}))
    base = f"http://127.0.0.1:{daemon.port()}"
    large = tmp_path / "large"
    large.write_bytes(b"x" * 5_000_000)

    async def ask(path: str, *options: str) -> tuple[int, Any]:
        text = await curl(version, "-w", "\n%{http_code}", *options, base + path)
        body, _, status = text.rpartition("\n")
        return int(status), json.loads(body)

    bodies = (
        (),
        ("-d", "abc"),
        ("--data-binary", f"@{large}"),
        ("-T", str(large)),
        ("-H", "Transfer-Encoding: chunked", "-d", "abc"),
    )
    for number, (body, size) in enumerate(zip(bodies, (0, 3, 5_000_000, 5_000_000, 3), strict=True)):
        if version != "--http1.1" and "Transfer-Encoding: chunked" in body:
            continue
        for text in (token(RSA, nonce=number), token(EC, "ES256", nonce=number)):
            for _ in range(2):  # checked, and remembered
                status, document = await ask("/", "-H", f"Authorization: Bearer {text}", "-H", "X-A: 1", *body)
                assert (status, told(document), document["body"]) == (200, ["alice"], size)
                assert told(document, "authorization") == []
                assert told(document, "x-a") == ["1"]
        status, document = await ask("/staff", "-u", "bob:secret", *body)
        assert (status, told(document), document["body"]) == (200, ["bob"], size)
        for options in (("-u", f"bob:secret{number}"), ("-H", f"Authorization: Bearer {token(RSA, aud='x')}")):
            assert (await ask("/staff", *options, *body))[0] == 401
    assert (await ask("/staff", "-H", "Authorization: Bearer key-c"))[1]["fields"][-1] == [NAME.lower(), "carol"]
    assert (await ask("/staff", "-H", f"Authorization: Bearer {token(RSA)}"))[0] == 200
    two = ("-H", f"Authorization: Bearer {token(RSA)}", "-H", "Authorization: Basic Ym9iOnNlY3JldA==")
    assert (await ask("/staff", *two))[0] == 401
    head = await curl(version, "-D", "-", base + "/staff")
    for challenge in ('Basic realm="staff", charset="UTF-8"', 'Bearer realm="sso"', 'Bearer realm="bearer"'):
        assert challenge in head
    assert daemon.in_flight() == 0


async def test_tokens_in_a_header_of_their_own_and_long_names(
    start: Start, echo: Echo, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """As identity-aware proxies send them; names as those of service accounts are."""
    made = checked(echo, tmp_path, RSA, log={"access": "access.log"})
    made["auth"]["sso"].update(header="X-Goog-IAP-JWT-Assertion", claim="/account/name")
    daemon = start(made)
    url = f"http://127.0.0.1:{daemon.port()}/"
    longest = "system:serviceaccount:" + "n" * 63 + ":" + "a" * 169
    for text, status in (
        (token(RSA, account={"name": longest}), 200),
        (token(RSA, account={"name": longest + "a"}), 401),
        (token(RSA, account={}), 401),
        ("Bearer " + token(RSA, account={"name": "a"}), 401),
    ):
        async with client.get(url, headers={"x-goog-iap-jwt-assertion": text}) as answer:
            assert answer.status == status, text
            if status == 200:
                document = await answer.json()
                assert (told(document), told(document, "x-goog-iap-jwt-assertion")) == ([longest], [])
            else:
                assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="sso"')
    async with client.get(url, headers={"Authorization": f"Bearer {token(RSA, account={'name': 'a'})}"}) as answer:
        assert answer.status == 401
    log = daemon.folder / "access.log"
    await asyncio.to_thread(eventually, lambda: f'"identity":"{longest}"' in log.read_text(), "a record")


async def test_keys_rotate(start: Start, echo: Echo, client: aiohttp.ClientSession, tmp_path: Path) -> None:
    daemon = start(checked(echo, tmp_path, RSA))
    url = f"http://127.0.0.1:{daemon.port()}/"
    old, new = token(RSA), token(EC, "ES256")

    async def status(text: str) -> int:
        async with client.get(url, headers={"Authorization": f"Bearer {text}"}) as answer:
            return answer.status

    async def wait_for(wanted: tuple[int, int]) -> None:
        async with asyncio.timeout(30):
            while (await status(old), await status(new)) != wanted:
                await asyncio.sleep(0.1)

    await wait_for((200, 401))
    write_keys(tmp_path / "jwks.json", RSA, EC)
    await wait_for((200, 200))
    for content, said in (("{}", "is no JWK set"), ("", "is empty")):
        (tmp_path / "jwks.json").write_text(content)
        await asyncio.to_thread(eventually, lambda said=said: said in daemon.log, "a line in the log")
        assert (await status(old), await status(new)) == (200, 200)
    write_keys(tmp_path / "jwks.json", EC)
    await wait_for((401, 200))  # also what was remembered


async def test_a_token_is_remembered_until_it_expires(
    start: Start, echo: Echo, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    made = checked(echo, tmp_path, RSA)
    made["auth"]["sso"]["leeway"] = "0s"
    daemon = start(made)
    fields = {"Authorization": f"Bearer {token(RSA, exp=time.time() + 3)}"}
    async with asyncio.timeout(30):
        seen = []
        while not seen or seen[-1] == 200:
            async with client.get(f"http://127.0.0.1:{daemon.port()}/", headers=fields) as answer:
                seen.append(answer.status)
            await asyncio.sleep(0.1)
    assert len(seen) > 5
    assert seen[-1] == 401


async def test_a_flood_of_bad_passwords_is_bounded_and_good_keys_go_on(
    start: Start, echo: Echo, tmp_path: Path
) -> None:
    made = checked(echo, tmp_path, RSA, workers=1)
    (tmp_path / "users").write_text(f"bob:{bcrypt.hashpw(b'secret', bcrypt.gensalt(10)).decode()}\n")
    daemon = start(made)
    base = f"http://127.0.0.1:{daemon.port()}"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:

        async def guess(number: int) -> int:
            auth = aiohttp.BasicAuth("bob", f"guess{number}")
            async with client.post(f"{base}/staff", auth=auth, data=b"x" * 1000) as answer:
                return answer.status

        async def known() -> int:
            async with client.get(f"{base}/staff", headers={"Authorization": "Bearer key-c"}) as answer:
                return answer.status

        guesses = [asyncio.create_task(guess(number)) for number in range(200)]
        await asyncio.sleep(0.2)
        assert [await known() for _ in range(20)] == [200] * 20
        seen = Counter(await asyncio.gather(*guesses))
        assert set(seen) == {401, 429}
        assert seen[401] >= 32
        async with client.get(f"{base}/staff", auth=aiohttp.BasicAuth("bob", "secret")) as answer:
            assert answer.status == 200
    await asyncio.to_thread(eventually, lambda: daemon.in_flight() == 0, "the end of all")


async def test_clients_that_leave_while_their_credential_is_checked(
    start: Start, echo: Echo, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    made = checked(echo, tmp_path, RSA, workers=1)
    (tmp_path / "users").write_text(f"bob:{bcrypt.hashpw(b'secret', bcrypt.gensalt(11)).decode()}\n")
    daemon = start(made)
    port = daemon.port()
    head = "POST /staff HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\nAuthorization: Basic {}\r\n\r\n"
    for number in range(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        credential = aiohttp.BasicAuth("bob", f"guess{number}").encode().removeprefix("Basic ")
        writer.write(head.format(credential).encode() + b"x" * 100_000)
        await writer.drain()
        writer.close()
        del reader
    async with client.get(f"http://127.0.0.1:{port}/staff", auth=aiohttp.BasicAuth("bob", "secret")) as answer:
        assert answer.status == 200
    assert len(daemon.worker_pids()) == 1
    assert "Traceback" not in daemon.log


async def test_grpc_with_tokens(start: Start, tmp_path: Path) -> None:
    async def both(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        yield dict(context.invocation_metadata() or ())[NAME.lower()].encode()
        async for message in requests:
            yield message

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers = {"Both": grpc.stream_stream_rpc_method_handler(both)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Kinds", handlers),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    jwks = write_keys(tmp_path / "jwks.json", RSA)
    daemon = start(
        {
            "auth": {"sso": {"type": "jwt", "file": str(jwks), "issuer": ISSUER, "audience": ["gate"]}},
            "listeners": {"web": http_listener({"auth": "sso", "pool": "calls"})},
            "pools": {"calls": {"protocol": "grpc", "endpoints": [address]}},
        }
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{daemon.port()}") as channel:
        call = channel.stream_stream("/test.Kinds/Both")

        async def messages() -> AsyncIterator[bytes]:
            for number in range(50):
                yield b"%d" % number * 1000

        for _ in range(2):
            metadata = (("authorization", f"Bearer {token(RSA, nonce=1)}"),)
            got = [part async for part in call(messages(), metadata=metadata, timeout=30)]
            assert got == [b"alice", *[b"%d" % number * 1000 for number in range(50)]]

        async def nothing() -> AsyncIterator[bytes]:
            """A client that still sends when it is refused may say INTERNAL of it (grpcio)."""
            return
            yield b""

        with pytest.raises(grpc.aio.AioRpcError) as error:
            async for _ in call(nothing(), metadata=(("authorization", f"Bearer {token(EC, 'ES256')}"),), timeout=30):
                pass
        assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
    await server.stop(None)


async def test_a_default_of_the_listener_scopes_and_claims(
    start: Start, echo: Echo, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    made = config(
        echo,
        keys_file(tmp_path, key_line("reader", "key-a"), key_line("writer", "key-b").strip() + ":infer admin\n"),
        {"pool": "app"},
        {"match": {"path": {"prefix": "/open"}}, "auth": "none", "pool": "app"},
        {"match": {"path": {"prefix": "/keys"}}, "auth": {"providers": ["keys"], "scopes": ["infer"]}, "pool": "app"},
        {
            "match": {"path": {"prefix": "/scopes"}},
            "auth": {"providers": ["sso"], "scopes": ["infer", "models:read"]},
            "pool": "app",
        },
        {
            "match": {"path": {"prefix": "/claims"}},
            "auth": {"providers": ["sso"], "claims": {"groups": ["ml", "ops"], "https://x/tier": "gold"}},
            "pool": "app",
        },
        log={"access": "access.log"},
    )
    sso = {"type": "jwt", "file": str(write_keys(tmp_path / "jwks", RSA)), "issuer": ISSUER, "audience": ["gate"]}
    made["auth"]["sso"] = sso
    made["listeners"]["web"]["auth"] = "sso"
    daemon = start(made)
    base = f"http://127.0.0.1:{daemon.port()}"

    async def ask(path: str, **fields: str) -> tuple[int, str | None, Any]:
        async with client.get(
            base + path, headers={name.replace("_", "-"): each for name, each in fields.items()}
        ) as got:
            return got.status, got.headers.get("WWW-Authenticate"), await got.json()

    async def bearer(path: str, **claims: Any) -> tuple[int, str | None, Any]:
        return await ask(path, Authorization=f"Bearer {token(RSA, **claims)}")

    assert (await ask("/"))[:2] == (401, 'Bearer realm="sso"')
    assert (await ask("/", X_Api_Key="key-a"))[0] == 401
    assert told((await bearer("/"))[2]) == ["alice"]
    assert (await ask("/open"))[0] == 200
    assert (await ask("/keys", X_Api_Key="key-b"))[0] == 200
    text = "Forbidden: the credential needs the scopes infer"
    assert await ask("/keys", X_Api_Key="key-a") == (403, None, {"error": text})

    challenge = 'Bearer realm="sso", error="insufficient_scope", scope="infer models:read"'
    for _ in range(2):  # also of a token that is known
        assert (await bearer("/scopes", scope="a infer models:read"))[0] == 200
        assert (await bearer("/scopes", scp=["infer", "models:read"]))[0] == 200
        assert (await bearer("/scopes", scp="infer", scope="models:read"))[0] == 200
        for few in (
            {},
            {"scope": "infer"},
            {"scope": "infer models:reader"},
            {"scope": ["infer"]},
            {"scp": {"infer": 1}},
        ):
            assert (await bearer("/scopes", **few))[:2] == (403, challenge)
    tier = {"https://x/tier": "gold"}
    assert (await bearer("/claims", groups=["a", "ops"], **tier))[0] == 200
    assert (await bearer("/claims", groups="ml", **tier))[0] == 200
    for wrong in ({"groups": "ml"}, {**tier}, {"groups": ["mlx"], **tier}, {"groups": {"ml": 1}, **tier}):
        assert (await bearer("/claims", **wrong))[:2] == (403, None)
    assert (await ask("/scopes"))[0] == 401
    # Who has not the scopes is known all the same; and what a reload asks for holds for tokens that are known.
    await asyncio.to_thread(
        logged,
        daemon.folder / "access.log",
        lambda lines: ("forbidden", "reader") in {(line["reason"], line["identity"]) for line in lines},
    )
    made["listeners"]["web"]["routes"][0]["auth"] = {"providers": ["sso"], "claims": {"groups": "ml"}}
    daemon.reload(made)
    assert (await bearer("/"))[0] == 403
    assert (await bearer("/", groups=["ml"]))[0] == 200
    del made["listeners"]["web"]["routes"][0]["auth"], made["listeners"]["web"]["auth"]
    daemon.reload(made)
    assert (await ask("/"))[0] == 200


async def test_inferences_with_tokens_and_a_cache(start: Start, tmp_path: Path) -> None:
    jwks = write_keys(tmp_path / "jwks.json", RSA)
    routes = {"auth": "sso", "cache": {"tenant": {"identity": True}}, "pool": "digits"}
    daemon = start(
        {
            "auth": {"sso": {"type": "jwt", "file": str(jwks), "issuer": ISSUER, "audience": ["gate"]}},
            "listeners": {"web": http_listener(routes)},
            "pools": {"digits": digits_pool(min=1)},
            "cache": {},
        }
    )
    (sample, *_) = digit_samples()
    body = digit_request(sample["image"]).partition(b"\r\n\r\n")[2]

    async def ask(text: str) -> tuple[int, str | None]:
        answer = await ask_once(daemon.port(), request("POST", DIGITS_INFER, body, Authorization=f"Bearer {text}"))
        return answer.status, answer.cache

    seen = [await ask(token(RSA, sub=who, nonce=number)) for who, number in (("a", 1), ("a", 2), ("b", 1), ("b", 1))]
    assert [status for status, _ in seen] == [200] * 4
    assert [cache for _, cache in seen] == [seen[0][1], seen[1][1], seen[0][1], seen[1][1]]
    assert seen[0] != seen[1]
    assert (await ask(token(EC, "ES256")))[0] == 401


async def test_keys_are_fetched(start: Start, echo: Echo, client: aiohttp.ClientSession, tmp_path: Path) -> None:
    served: dict[str, Any] = {"status": 503, "body": b""}

    async def answer(request: web.Request) -> web.Response:
        if served["status"] == 302:
            return web.Response(status=302, headers={"Location": "/else"})
        return web.Response(status=served["status"], body=served["body"])

    app = web.Application()
    app.router.add_get("/jwks", answer)
    app.router.add_get("/else", lambda request: web.Response(body=write_keys(tmp_path / "k", EC).read_bytes()))
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made = checked(echo, tmp_path, RSA)
    del made["auth"]["sso"]["file"]
    made["auth"]["sso"].update(url=f"http://127.0.0.1:{runner.addresses[0][1]}/jwks", refresh="1s")
    daemon = await asyncio.to_thread(start, made)
    old, new = token(RSA), token(EC, "ES256")

    async def status(text: str) -> int:
        fields = {"Authorization": f"Bearer {text}"}
        async with client.get(f"http://127.0.0.1:{daemon.port()}/", headers=fields) as found:
            return found.status

    async def wait_for(wanted: tuple[int, int]) -> None:
        async with asyncio.timeout(30):
            while (await status(old), await status(new)) != wanted:
                await asyncio.sleep(0.1)

    await wait_for((503, 503))
    served.update(status=200, body=write_keys(tmp_path / "k", RSA).read_bytes())
    await wait_for((200, 401))
    served.update(body=write_keys(tmp_path / "k", RSA, EC).read_bytes())
    await wait_for((200, 200))
    for status_then, body in ((500, b""), (302, b""), (200, b"{}"), (200, b"x" * (2 << 20))):
        served.update(status=status_then, body=body)
        await asyncio.sleep(1.2)
        assert (await status(old), await status(new)) == (200, 200)
    served.update(status=200, body=write_keys(tmp_path / "k", EC).read_bytes())
    await wait_for((401, 200))
    await runner.cleanup()


async def test_roles_and_the_record_of_changes(start: Start, echo: Echo, tmp_path: Path) -> None:
    tokens = []
    for role in ("viewer", "operator"):
        (tmp_path / role).write_text(f"secret-{role}")
        tokens.append({"name": f"the-{role}", "role": role, "file": str(tmp_path / role)})
    (tmp_path / "all").write_text("secret-all")
    made = {
        "listeners": {"web": http_listener({"pool": "app"})},
        "pools": {"app": {"protocol": "http", "endpoints": [echo.address]}},
    }
    admin = {"bind": f"unix:{tmp_path}/other.sock", "tokens": tokens, "token_file": str(tmp_path / "all")}
    daemon = await asyncio.to_thread(start, {**made, "admin": admin}, ready=False)

    async def ask(role: str, path: str, body: str = "") -> int:
        options = ("-H", f"Authorization: Bearer secret-{role}", *(("-d", body) if body else ()))
        text = await curl(
            "--unix-socket", f"{tmp_path}/other.sock", "-o", "/dev/null", "-w", "%{http_code}", *options,
            f"http://localhost{path}",
        )  # fmt: skip
        return int(text[-3:]) if text[-3:].isdigit() else 0

    async with asyncio.timeout(60):
        while await ask("all", "/readyz") != 200:
            await asyncio.sleep(0.1)
    change = json.dumps({"pool": "app", "address": echo.address, "weight": 2})
    assert [await ask(role, "/api/v1/status") for role in ("viewer", "operator", "all", "x")] == [200, 200, 200, 401]
    assert [await ask(role, "/api/v1/endpoint", change) for role in ("viewer", "operator", "all", "x")] == [
        403, 200, 200, 401
    ]  # fmt: skip
    assert [await ask(role, "/api/v1/reload", "x") for role in ("viewer", "operator", "all")] == [403, 403, 200]
    lines = [line.partition("tidegate.audit: ")[2] for line in daemon.log.splitlines() if "tidegate.audit" in line]
    assert [(line.split(" from unix")[0], line.rpartition(": ")[2]) for line in lines] == [
        ("the-viewer (viewer)", "403"), ("the-operator (operator)", "200"), ("token (admin)", "200"),
        ("nobody who is known", "401"), ("the-viewer (viewer)", "403"), ("the-operator (operator)", "403"),
        ("token (admin)", "200"),
    ]  # fmt: skip
    assert '\\"weight\\": 2' in lines[1]
    assert "secret" not in daemon.log
