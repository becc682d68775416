"""A fleet as JSON: it comes back as it went, and each mistake is one clear line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.emulator.__main__ import main
from bench.emulator.answers import Answers, infer_json, infer_response
from bench.emulator.spec import (
    Antagonist,
    Batched,
    Constant,
    Empirical,
    Exponential,
    Failure,
    Fleet,
    Instant,
    Lognormal,
    Parallel,
    Serial,
    ServerSpec,
    Service,
    Stall,
)
from bench.errors import BenchError
from lb.wire import grpc_service_pb2 as oip


def test_json_there_and_back() -> None:
    fleet = Fleet(
        (
            ServerSpec(9001, Service(Serial(Lognormal(5.0, 0.5)), 10, (Stall(1.0, 2.0, 5.0),)), 4096, "resnet"),
            ServerSpec(9002, Service(Batched(8, 2.0, 5.0, 1.0), antagonists=(Antagonist(100.0, 0.2, 5.0),))),
            ServerSpec(9003, Service(Parallel(Exponential(3.0), 4), failures=(Failure(0.0, 9.0, how="reset"),))),
            ServerSpec(9004, Service(Serial(Empirical("times.txt"))), headers=(("Cache-Control", "max-age=60"),)),
            ServerSpec(9005, Service(Serial(Constant(1.0)))),
            ServerSpec(0),
        ),
        9000,
        seed=5,
        epoch="start",
        host="::1",
    )
    assert Fleet.from_json(fleet.to_json()) == fleet


def test_what_is_left_out_has_a_default() -> None:
    fleet = Fleet.from_json('{"servers": [{"port": 0}], "control_port": 0}')
    assert fleet == Fleet((ServerSpec(0),), 0)
    assert fleet.servers[0].service.execution == Instant()


def with_service(**service: Any) -> dict[str, Any]:
    return {"servers": [{"port": 1, "service": service}], "control_port": 0}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({}, "servers"),
        ({"servers": [], "control_port": 0}, "servers"),
        ({"servers": [{"port": 70000}], "control_port": 0}, "servers.0.port"),
        ({"servers": [{"port": True}], "control_port": 0}, "servers.0.port"),
        ({"servers": [{"port": 1, "prot": 2}], "control_port": 0}, "servers.0.prot"),
        ({"servers": [{"port": 1}, {"port": 1}], "control_port": 0}, "port 1 is given twice"),
        ({"servers": [{"port": 1, "answer_bytes": 3}], "control_port": 0}, "answer_bytes"),
        ({"servers": [{"port": 1, "headers": [["A", "b\r\nC: d"]]}], "control_port": 0}, "not an HTTP header"),
        (with_service(execution={"kind": "serial"}), "servers.0.service.execution.serial.time"),
        (with_service(execution={"kind": "magic"}), "servers.0.service.execution"),
        (with_service(execution={"kind": "none", "time": {"kind": "constant", "ms": 1}}), "execution.none.time"),
        (with_service(execution={"kind": "serial", "time": {"kind": "constant", "ms": -1}}), "time.constant.ms"),
        (with_service(execution={"kind": "serial", "time": {"kind": "constant", "ms": "5"}}), "time.constant.ms"),
        (with_service(stalls=[{"start_ms": 0, "length_ms": 6, "every_ms": 5}]), "cannot repeat"),
        (with_service(stalls=[{"start_ms": 0, "length_ms": 5, "every_ms": 5}]), "no time in which anything proceeds"),
        (with_service(antagonists=[{"period_ms": 9, "duty": 1.5, "factor": 2}]), "antagonists.0.duty"),
        (with_service(failures=[{"start_ms": 0, "length_ms": 5, "how": "explode"}]), "failures.0.how"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(value: object, says: str) -> None:
    with pytest.raises(BenchError) as caught:
        Fleet.from_json(json.dumps(value))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_says_the_mistake_and_its_file(tmp_path: Path) -> None:
    file = tmp_path / "fleet.json"
    file.write_text('{"servers": [{"port": 0}], "control_port": 0, "sed": 1}')
    command = [sys.executable, "-m", "bench.emulator", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert str(file) in ended.stderr
    assert "sed" in ended.stderr


def test_options_make_a_fleet(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--servers", "2", "--port", "9001", "--control", "9000", "--execution", "parallel:4", "--seed", "3"]
    assert main([*arguments, "--time", "lognormal:5:0.5", "--max-queue", "7", "--print"]) == 0
    service = Service(Parallel(Lognormal(5.0, 0.5), 4), 7)
    assert Fleet.from_json(capsys.readouterr().out) == Fleet(
        (ServerSpec(9001, service), ServerSpec(9002, service)), 9000, 3
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--execution", "serial"], "needs --time"),
        (["--execution", "parallel", "--time", "constant:1"], "parallel:SLOTS"),
        (["--execution", "none", "--time", "constant:1"], "does not go with"),
        (["--execution", "serial", "--time", "constant:soon"], "'soon'"),
        (["--servers", "0"], "servers"),
        (["fleet.json", "--seed", "1"], "--seed does not go with a file"),
        (["no-such-file.json"], "no-such-file.json"),
    ],
)
def test_wrong_options_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert says in said.err
    assert said.err.count("\n") == 1


def test_both_protocols_give_the_same_answer() -> None:
    spec = ServerSpec(0, answer_bytes=4096, model="resnet")
    message = oip.ModelInferResponse.FromString(Answers(spec).infer.body[5:])
    value = json.loads(infer_json(spec))
    assert message == infer_response(spec)
    assert value["model_name"] == message.model_name == "resnet"
    assert value["outputs"][0]["shape"] == list(message.outputs[0].shape) == [1, 1024]
    assert len(message.raw_output_contents[0]) == 4096
    assert len(value["outputs"][0]["data"]) == 1024
