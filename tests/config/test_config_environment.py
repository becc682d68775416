"""Environment variables in the values of a configuration file."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lb.balancing.policy_checks import check_policies
from lb.config.document import parse
from lb.config.load import load
from lb.config.reference import page as reference
from lb.config.schema.file import Config
from lb.config.units import MINUTE, SECOND
from lb.errors import ConfigError

MINIMAL = """\
workers: {workers}
listeners:
  web:
    bind: {bind}
    protocol: http
    idle_timeout: {idle}
    max_headers: {headers}
    request_id: {request_id}
    retry_buffer: {body}
    routes: [{{pool: app}}]
pools:
  app:
    protocol: http
    policy: {{type: power_of_two, choices: {choices}}}
    endpoints: {endpoints}
"""
PLAIN = {
    "workers": "2",
    "bind": "127.0.0.1:8080",
    "idle": "1m",
    "headers": "50",
    "request_id": "true",
    "body": "0",
    "choices": "3",
    "endpoints": "[127.0.0.1:8000]",
}


def read(folder: Path, **values: str) -> Config:
    path = folder / "t.yaml"
    path.write_text(MINIMAL.format(**{**PLAIN, **values}))
    return load(path, checks=[check_policies])


def problems(folder: Path, **values: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, **values)
    return [p.removeprefix(f"{folder}/t.yaml:") for p in caught.value.problems]


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("form", ["${V}", '"${V}"', "${V:-nonsense}", "${UNSET:-%s}", "'${UNSET:-${V}}'"])
def test_every_kind_of_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: str) -> None:
    value = PLAIN[name].strip("[]")
    monkeypatch.setenv("V", value)
    monkeypatch.delenv("UNSET", raising=False)
    written = form.replace("%s", value)
    assert read(tmp_path, **{name: f"[{written}]" if name == "endpoints" else written}) == read(tmp_path)


def test_parts_of_a_text_and_of_a_flow_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "10.0.0.7")
    monkeypatch.setenv("PORT", "8001")
    text = "[${HOST}:${PORT}, ${A:-[::1]:${PORT}}, {address: ${HOST}:81, weight: ${W:-3}}]"
    found = read(tmp_path, endpoints=text).pools["app"].endpoints
    assert [(e.address, e.weight) for e in found] == [("10.0.0.7:8001", 1), ("[::1]:8001", 1), ("10.0.0.7:81", 3)]


@pytest.mark.parametrize("given", [None, ""])
def test_a_default_is_for_a_variable_that_is_unset_or_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    monkeypatch.delenv("V", raising=False)
    if given is not None:
        monkeypatch.setenv("V", given)
    assert read(tmp_path, idle="${V:-2m}").listeners["web"].idle_timeout == 2 * MINUTE


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("$${V}", "${V}"),
        ("a$$${V}b", "a$xyzb"),
        ("$$$${V}", "$${V}"),
        ("^/a$", "^/a$"),
        ("a$$", "a$$"),
        ("$V", "$V"),
        ("cost: $5 {x}", "cost: $5 {x}"),
    ],
)
def test_dollars_that_are_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, becomes: str) -> None:
    monkeypatch.setenv("V", "xyz")
    path = tmp_path / "t.yaml"
    route = f"{{respond: {{body: {json.dumps(text)}}}}}"
    path.write_text(f'listeners: {{web: {{bind: "127.0.0.1:1", protocol: http, routes: [{route}]}}}}')
    respond = load(path).listeners["web"].routes[0].respond
    assert respond is not None
    assert respond.body == becomes


@pytest.mark.parametrize(
    "value",
    [
        "127.0.0.1:1\n    protocol: tcp",
        "{a: b}",
        "[1, 2]",
        "&a x",
        "*a",
        "!!python/object:os.system x",
        "${W}",
        "null",
        "~",
    ],
)
def test_a_value_is_never_more_than_a_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("V", value)
    path = tmp_path / "t.yaml"
    path.write_text(
        'listeners: {web: {bind: "127.0.0.1:1", protocol: http, routes: [{respond: {body: ${V}, status: 201}}]}}'
    )
    respond = load(path).listeners["web"].routes[0].respond
    assert respond is not None
    assert (respond.body, respond.status) == (value, 201)


@pytest.mark.parametrize("value", ["1", "true", "1.5", "0x10"])
def test_a_text_that_looks_like_a_number_stays_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("V", value)
    path = tmp_path / "t.yaml"
    path.write_text('listeners: {web: {bind: "127.0.0.1:1", protocol: http, routes: [{respond: {body: ${V}}}]}}')
    respond = load(path).listeners["web"].routes[0].respond
    assert respond is not None
    assert respond.body == value


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"bind": "${GONE}"}, "4: listeners.web.bind: the environment variable GONE is not set"),
        ({"endpoints": "[${A:-${GONE}}]"}, "15: pools.app.endpoints[0]: the environment variable GONE is not set"),
        ({"bind": "${A-b}"}, "4: listeners.web.bind: '-' means nothing in a variable;"),
        ({"bind": "${A:?must}"}, "4: listeners.web.bind: ':?' means nothing in a variable;"),
        ({"bind": "${env:A}"}, "4: listeners.web.bind: variables have no source such as env: here;"),
        ({"bind": "${env.A}"}, "4: listeners.web.bind: variables have no source such as env. here; write ${A}"),
        ({"bind": "${}"}, "4: listeners.web.bind: '' is not the name of a variable;"),
        ({"bind": "'${A'"}, "4: listeners.web.bind: a variable ends with };"),
        ({"bind": "x, '${A}': 1"}, None),
        ({"headers": "50\n    ${A}: 1"}, "8: listeners.web.${A}: a key cannot have variables; only values can"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, str], said: str | None
) -> None:
    monkeypatch.delenv("GONE", raising=False)
    monkeypatch.delenv("A", raising=False)
    found = problems(tmp_path, **values)
    if said is not None:
        assert [line[: len(said)] for line in found] == [said]
        assert "${" in found[0]


SECRET = "hunter2-is-secret"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"bind": "${V}"}, "4: listeners.web.bind: '${V}' has no port; write HOST:PORT"),
        ({"bind": "127.0.0.1:${V}"}, "4: listeners.web.bind: '127.0.0.1:${V}' has no valid port"),
        ({"headers": "${V}"}, "7: listeners.web.max_headers: must be a whole number (${V})"),
        ({"workers": "${V}"}, "1: workers: must be auto or a number from 1 to 128 (${V})"),
        ({"request_id": "${V}"}, "8: listeners.web.request_id: must be true or false (${V})"),
        ({"idle": "${V}"}, "6: listeners.web.idle_timeout: '${V}' is not a duration"),
        ({"choices": "${V}"}, "14: pools.app.policy.choices: must be a whole number (${V})"),
        ({"choices": "${N:-99}"}, "14: pools.app.policy.choices: must be at most 32 (${N:-99})"),
        ({"headers": "${N:-9999}"}, "7: listeners.web.max_headers: must be at most 1000 (${N:-9999})"),
        ({"endpoints": '["10.0.0.${V}!:80"]'}, "15: pools.app.endpoints[0]: '10.0.0.${V}!:80' is not an"),
    ],
)  # fmt: skip
def test_errors_name_the_variable_and_not_its_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, str], said: str
) -> None:
    monkeypatch.setenv("V", f"{SECRET}_")
    monkeypatch.delenv("N", raising=False)
    found = problems(tmp_path, **values)
    sentence, _, value = said.partition(" (")
    assert found[0].startswith(sentence)
    assert not value or found[0].endswith(f" (the value is that of {value}")
    assert "hunter" not in "".join(found)


def test_parts_of_a_secret_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V", "user_:s3cr3t!:8080")
    (found,) = problems(tmp_path, endpoints='["${V}"]')
    assert "s3cr3t" not in found
    assert "user_" not in found
    assert "${V}" in found


@pytest.mark.parametrize("seconds", ["7", "90"])
def test_every_load_reads_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    monkeypatch.setenv("V", f"{seconds}s")
    assert read(tmp_path, idle="${V}").listeners["web"].idle_timeout == int(seconds) * SECOND


@pytest.mark.slow
def test_the_schema_takes_variables_in_place_of_every_scalar() -> None:
    schema: Any = json.loads(reference.SCHEMA.read_text())
    every = MINIMAL.format(**{name: '"${V:-1}"' for name in PLAIN if name != "endpoints"}, endpoints='["${V}"]')
    jsonschema.validate(parse(every.encode()).data, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(parse(every.replace("${V:-1}", "V").encode()).data, schema)


def written(folder: Path, text: str, name: str = "secret") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("secret", ["first\nsecond", 'x: y"}\r\nEvil: 1', "alpha, beta"])
def test_no_advice_is_made_of_what_a_file_holds(tmp_path: Path, secret: str) -> None:
    written(tmp_path, secret)
    path = tmp_path / "t.yaml"
    for route in ("{set: {X-A: 'é ${file:secret}'}}", "{remove: ['${file:secret}']}"):
        path.write_text(
            "listeners: {web: {bind: 127.0.0.1:1, protocol: http, routes: [{pool: a, request_headers: "
            + route
            + "}]}}\npools: {a: {protocol: http, endpoints: [127.0.0.1:2]}}\n"
        )
        with pytest.raises(ConfigError) as error:
            load(path)
        message = str(error.value)
        assert "${file:secret}" in message
        assert not {"first", "second", "evil", "alpha", "beta"} & set(re.findall("[a-z]+", message.lower())), message


def test_a_named_pipe_does_not_hold_who_reads_the_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "t.yaml"
    path.write_text("alerts: {urls: ['${file:pipe}']}\n")
    with pytest.raises(ConfigError, match=r"t.yaml:1: alerts.urls\[0\]: .*/pipe: is not a regular file"):
        load(path)


def test_files_stand_for_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "https://hooks.example.org/T0/B0\n")
    written(tmp_path, "7\n", "number")
    written(tmp_path, "", "empty")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.delenv("NONE", raising=False)
    path = tmp_path / "t.yaml"
    path.write_text(
        """
alerts:
  urls:
    - ${file:secret}
    - "${file:${CREDENTIALS_DIRECTORY}/secret}/x"
    - ${file:${NONE:-.}/secret}y
    - ${file:none:-https://a/b}
    - ${file:empty:-https://a/${file:number}}
listeners:
  web:
    bind: 127.0.0.1:1
    protocol: http
    max_headers: ${file:number}
    routes: [{respond: {body: "${file:number}"}}]
"""
    )
    config = load(path)
    assert config.alerts is not None
    base = "https://hooks.example.org/T0/B0"
    assert config.alerts.urls == [base, f"{base}/x", f"{base}y", "https://a/b", "https://a/7"]
    assert config.listeners["web"].max_headers == 7
    respond = config.listeners["web"].routes[0].respond
    assert respond is not None
    assert respond.body == "7"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "secret: No such file or directory"),
        (b"", "secret is empty"),
        (b"\n", "secret is empty"),
        (b"\xff", "secret is no text in UTF-8"),
        (b"x" * 70_000, "secret is larger than 65536 bytes"),
        (SECRET.encode(), "'${file:secret}' has no port; write HOST:PORT"),
        (f"{SECRET}\nmore: 1".encode(), "${file:secret}"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    (found,) = problems(tmp_path, bind="${file:secret}")
    assert found.startswith("4: listeners.web.bind: ")
    assert said in found
    assert SECRET not in found


# Keys that hold what may be secret and are no files: `${file:…}` stands for each of them.
SECRET_TEXTS = {
    "alerts": {"urls": ["https://hooks.example.org/SECRET"]},
    "pools": {
        "serve": {"protocol": "http", "serve": {"command": ["/bin/sleep", "1"], "env": {"HF_TOKEN": "SECRET"}}},
        "scaled": {
            "protocol": "http", "endpoints": ["127.0.0.1:1"],
            "health": {"type": "http", "headers": {"Authorization": "SECRET"}},
        },
    },
    "listeners": {
        "web": {
            "bind": "127.0.0.1:1", "protocol": "http",
            "routes": [{
                "pool": "scaled",
                "request_headers": {"set": {"Authorization": "Bearer SECRET"}, "add": {"X-Key": "SECRET"}},
                "match": {"headers": {"x-key": "SECRET"}, "query": {"key": "SECRET"}},
            }],
        }
    },
    "tracing": {"endpoint": "http://127.0.0.1:1/SECRET"},
}  # fmt: skip


def test_every_secret_can_be_in_a_file(tmp_path: Path) -> None:
    written(tmp_path, "s3cr3t\n")
    path = tmp_path / "t.yaml"
    path.write_text(json.dumps(SECRET_TEXTS).replace("SECRET", "${file:secret}"))
    expected = json.dumps(SECRET_TEXTS).replace("SECRET", "s3cr3t")
    (tmp_path / "plain.yaml").write_text(expected)
    assert load(path) == load(tmp_path / "plain.yaml")
