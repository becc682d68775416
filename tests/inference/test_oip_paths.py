"""Inference paths, and statuses."""

import pytest
from compiled.inference import infer_target

from lb.failure import grpc_to_http
from lb.inference.errors import OipError


@pytest.mark.parametrize(
    ("path", "target"),
    [
        (b"/v2/models/digits/infer", (b"digits", b"")),
        (b"/v2/models/digits/versions/12/infer", (b"digits", b"12")),
        (b"/v2/models/digits/infer?x=/y", (b"digits", b"")),
        (b"/v2/models/a%20b%2Fc%C3%A9/infer", ("a b/cé".encode(), b"")),
        ("/v2/models/é/infer".encode(), ("é".encode(), b"")),
        (b"/v2/models/infer/infer", (b"infer", b"")),
        (b"/v2/models/versions/versions/1/infer", (b"versions", b"1")),
        (b"/v2/models//infer", None),
        (b"/v2/models/a", None),
        (b"/v2/models/a/", None),
        (b"/v2/models/a/infer/", None),
        (b"/v2/models/a/inferx", None),
        (b"/v2/models/a/infe", None),
        (b"/v2/models/a/versions/infer", None),
        (b"/v2/models/a/versions//infer", None),
        (b"/v2/models/a/versions/1x/infer", None),
        (b"/v2/models/a/versions/-1/infer", None),
        (b"/v2/models/a/b/infer", None),
        (b"/v2/models/a?/infer", None),
        (b"/V2/models/a/infer", None),
        (b"/v2/models/", None),
        (b"/v2", None),
        (b"", None),
        (b"/v2/models/stats", None),
    ],
)
def test_infer_target(path: bytes, target: tuple[bytes, bytes] | None) -> None:
    assert infer_target(path) == target


@pytest.mark.parametrize("name", [b"%", b"%4", b"%zz", b"a%4", b"%ff", b"\xff", b"%ed%a0%80"])
def test_bad_names(name: bytes) -> None:
    with pytest.raises(OipError) as caught:
        infer_target(b"/v2/models/" + name + b"/infer")
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("grpc", "http"),
    [
        (0, 200),
        (1, 400),
        (2, 400),
        (3, 400),
        (4, 504),
        (5, 404),
        (6, 400),
        (8, 429),
        (12, 501),
        (13, 500),
        (14, 503),
        (16, 401),
    ],
)
def test_statuses(grpc: int, http: int) -> None:
    assert grpc_to_http(grpc) == http


@pytest.mark.parametrize("grpc", [-1, 17, 99])
def test_unknown_status(grpc: int) -> None:
    assert grpc_to_http(grpc) == 502
